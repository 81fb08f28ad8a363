"""`MuDPTLayer`: the one module a CLIP gains, holding all its MuDPT adapters and the hooks that read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Optional, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.utils.hooks import RemovableHandle

from .config import Modality, MuDPTConfig
from .prompts.prompts import MultiModalPrompts
from .towers.per_image import TextPerImage
from .towers.registry import Tower, whole_family


# The layer's name in the module that owns the towers, as in CoOp's code. It must not contain the prefix "mudpt_",
# because PEFT would not delete adapters below it.
LAYER_NAME = "prompt_learner"

NO_MERGE = (
    "A MuDPT adapter cannot be merged: it adds tokens to the sequence, which no weight of CLIP can express. Keep the "
    "adapter beside the model, or use unload() to get the base model back."
)


class SwitchLock:
    """Held while adapters are switched, and while a batch is predicted. A copy of a model gets a lock of its own."""

    def __init__(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple:  # for copies and pickles, which a lock does not allow
        return SwitchLock, ()


class MuDPTLayer(nn.Module, BaseTunerLayer):
    """
    Holds all MuDPT adapters of a model, as a new child of the module that contains the towers (the text and vision
    encoders). It wraps and replaces no module: it registers hooks on the towers, and these hooks ask it for the
    active adapter's prompts (see `towers.base.PromptSource`).

    Args:
        towers: the towers of the model, by modality.
    """

    # Keys in the state dict: <this layer>.mudpt_adapters.<adapter name>.<parameter>. transformers inserts the adapter
    # name after the first segment that begins with "mudpt_", so this must be the only one.
    adapter_layer_names = ("mudpt_adapters",)

    def __init__(self, towers: dict[Modality, Tower]) -> None:
        super().__init__()
        self.mudpt_adapters = nn.ModuleDict()
        self.merged_adapters = []
        # Per adapter: (id, version) of its initial tensors, to tell whether weights were loaded.
        self._as_made: dict[str, list] = {}
        self.towers = towers  # in a plain dict, which does not register them: they stay where they are in the model
        self._hooks: list[RemovableHandle] = []
        self.switch_lock = SwitchLock()
        # Another object after each switch. Unlike a flag, it shows a switch there and back.
        self.last_switch = object()
        self._without_prompts = False

    def update_layer(
        self, adapter_name: str, prompts: MultiModalPrompts, config: MuDPTConfig, owner: nn.Module
    ) -> None:
        """Add an adapter; with the first one, also register the hooks on the towers and on `owner`, which has them."""
        self.mudpt_adapters[adapter_name] = prompts
        if config.inference_mode:
            self._as_made[adapter_name] = _marks(prompts)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        if not self._hooks:
            family = whole_family(owner)  # first: the towers' own hooks then see one text per image
            self._hooks = [] if family is None else TextPerImage(self, family).attach(owner)
            self._hooks += [hook for tower in self.towers.values() for hook in tower.kind(self).attach(tower.module)]

    def awaits_weights(self, adapter_name: str) -> bool:
        """True while the adapter awaits its checkpoint and still holds its random initial values."""
        return self._as_made.get(adapter_name) == _marks(self.mudpt_adapters[adapter_name])

    def detach(self) -> None:
        """Remove all hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def num_tokens(self, modality: Modality) -> int:
        adapter = self._active_prompts()
        return 0 if adapter is None else adapter.num_tokens[modality]

    def start(self, modality: Modality) -> int:
        adapter = self._active_prompts()
        return 0 if adapter is None else adapter.layers[modality].start

    def prompts(
        self, modality: Modality, start: int, stop: Optional[int] = None, condition: Optional[torch.Tensor] = None
    ) -> dict[int, torch.Tensor]:
        adapter = self._active_prompts()
        if adapter is None:
            return {}
        own = adapter.layers[modality]
        layers = range(max(start, own.start), own.stop if stop is None else min(stop, own.stop))
        found = dict(zip(layers, adapter(modality, layers, condition).unbind(1))) if layers else {}
        index = adapter.class_token_layer
        if modality == "text" and condition is not None and index is not None:
            if start <= index and (stop is None or index < stop):
                found[index] = adapter(modality, range(index, index + 1), condition).squeeze(1)
        return found

    @property
    def class_token_layer(self) -> Optional[int]:
        """The layer before which the tokens of each class replace the text prompts now; None if there are none."""
        adapter = self._active_prompts()
        return None if adapter is None else adapter.class_token_layer

    @property
    def text_depends_on_image(self) -> bool:
        """Whether text features depend on the image now, so that they cannot be computed once for all images."""
        adapter = self._active_prompts()
        return adapter is not None and adapter.text_depends_on_image

    def image_condition(self, image_features: torch.Tensor) -> torch.Tensor:
        adapter = self._active_prompts()
        assert adapter is not None, "asked only if the text prompts depend on the image"
        return adapter.image_condition(image_features)

    @property
    def text_depends_on_class(self) -> bool:
        adapter = self._active_prompts()
        return adapter is not None and adapter.text_depends_on_class

    @property
    def num_class_contexts(self) -> int:
        adapter = self._active_prompts()
        return 0 if adapter is None or adapter.class_contexts is None else len(adapter.class_contexts.contexts)

    @property
    def active_name(self) -> Optional[str]:
        """The name of the active MuDPT adapter, enabled or not; adapters of other methods may be active beside it."""
        own = [name for name in self.active_adapters if name in self.mudpt_adapters]
        return own[0] if own else None  # no next(..., None): torch 2.8 does not compile it

    def _active_prompts(self) -> Optional[MultiModalPrompts]:
        name = None if self.disable_adapters or self._without_prompts else self.active_name
        return None if name is None else cast(MultiModalPrompts, self.mudpt_adapters[name])

    @contextmanager
    def without_prompts(self) -> Iterator[None]:
        """
        Run the towers without prompts inside of this block. Unlike PEFT's `disable_adapter`, it leaves `requires_grad`
        and the adapters of other methods as they are.
        """
        with self.switch_lock:
            before, self._without_prompts = self._without_prompts, True
            try:
                yield
            finally:
                self._without_prompts = before

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        # names that are not here are those of another method's adapters on the same model
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        own = [name for name in names if name in self.mudpt_adapters]
        if len(own) > 1:
            raise ValueError(
                f"MuDPT adapters {own} cannot be active together: each puts its own prompts in the same places. "
                "Activate one of them with set_adapter(name)."
            )
        with self.switch_lock:
            super().set_adapter(adapter_names, inference_mode=inference_mode)
            self.last_switch = object()

    def enable_adapters(self, enabled: bool) -> None:
        with self.switch_lock:
            super().enable_adapters(enabled)
            self.last_switch = object()

    def delete_adapter(self, adapter_name: str) -> None:
        with self.switch_lock:
            super().delete_adapter(adapter_name)
            self._as_made.pop(adapter_name, None)
            if not self.mudpt_adapters:
                self.detach()

    def merge(self, safe_merge: bool = False, adapter_names: Optional[list[str]] = None) -> None:
        raise ValueError(NO_MERGE)

    def unmerge(self) -> None:
        raise ValueError(NO_MERGE)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: Optional[torch.device] = None) -> None:
        if adapter_name not in self.mudpt_adapters:
            return  # another method's: PEFT asks every tuner layer of the model to move it
        tower = next(iter(self.towers.values()))
        like = tower.kind.like(tower.module)
        adapter = self.mudpt_adapters[adapter_name]
        device = like.device if device is None else device
        if device.type == "meta" or any(parameter.is_meta for parameter in adapter.parameters()):
            return  # there are no numbers yet: the base is offloaded, or the adapter awaits its weights
        adapter.to(device, like.dtype if like.is_floating_point() else None)  # a quantized table has no dtype to take

    @property
    def weight(self) -> torch.Tensor:
        # PEFT's own property asks the wrapped layer for its weight; without one it recurses without end.
        raise AttributeError("MuDPTLayer wraps no layer, so it has no weight.")

    @property
    def bias(self) -> torch.Tensor:
        raise AttributeError("MuDPTLayer wraps no layer, so it has no bias.")

    def __repr__(self) -> str:
        return f"mudpt.{super().__repr__()}"  # PEFT's status helpers read the method's name from it


def layer_of(model: nn.Module) -> Optional[MuDPTLayer]:
    """The MuDPT layer of a CLIP or of a tower, also through a `PeftModel`; None if it has no MuDPT adapter."""
    return getattr(model, LAYER_NAME, None)


def find_adapter(model: nn.Module, adapter_name: Optional[str] = None, way_out: str = "") -> tuple[MuDPTLayer, str]:
    """
    The MuDPT layer of a model, and the name of one of its adapters.

    Args:
        model: a CLIP or a tower, also in a `PeftModel`.
        adapter_name: the MuDPT adapter; None for the active one.
        way_out: what the error advises.

    Raises:
        ValueError: if there is no such MuDPT adapter.
    """
    layer = layer_of(model)
    name = layer.active_name if adapter_name is None and layer is not None else adapter_name
    if layer is None or name is None or name not in layer.mudpt_adapters:
        asked = "active MuDPT adapter" if name is None else f"MuDPT adapter {name!r}"
        names = [] if layer is None else list(layer.mudpt_adapters)
        raise ValueError(f"The model has no {asked}; its MuDPT adapters are {names}. {way_out}".rstrip())
    return layer, name


def _marks(prompts: nn.Module) -> list[tuple[int, int]]:
    """Id and version of each tensor in an adapter's state dict; they change when it is replaced or written to."""
    return [(id(tensor), tensor._version) for tensor in prompts.state_dict(keep_vars=True).values()]
