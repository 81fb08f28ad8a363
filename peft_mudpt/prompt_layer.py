"""`PromptLayer`: the module that a model gains from a prompt method. It holds the adapters and owns the hooks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, ClassVar, Optional

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.utils.hooks import RemovableHandle

from .settings import PromptConfig


# The layer's name in the module that gains it, as in CoOp's code. It must not contain the prefix of a method, such as
# "mudpt_", because PEFT would not delete adapters below it.
LAYER_NAME = "prompt_learner"

NO_MERGE = (
    "A {} adapter cannot be merged: it adds tokens to the sequence, which no weight of the model can express. Keep "
    "the adapter beside the model, or use unload() to get the base model back."
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


class PromptLayer(nn.Module, BaseTunerLayer):
    """
    Holds all adapters of one prompt method on a model, as a new child of one of its modules. It wraps and replaces no
    module: it registers hooks, and these hooks ask it for the active adapter's prompts.

    Keys in the state dict are <this layer>.<container>.<adapter name>.<parameter>. transformers inserts the adapter
    name after the first segment that begins with the method's prefix, so the container must be the only one.

    Attributes:
        method: the method's name in messages.
        adapter_layer_names: the one container of the adapters, such as ("mudpt_adapters",).

    Args:
        place: what the tuner has found in the model: where prompts enter (see `PromptTuner.find_place`).
    """

    method: ClassVar[str]

    def __init__(self, place: Any) -> None:
        super().__init__()
        (container,) = self.adapter_layer_names
        setattr(self, container, nn.ModuleDict())
        self.merged_adapters = []
        # Per adapter: (id, version) of its initial tensors, to tell whether weights were loaded.
        self._as_made: dict[str, list] = {}
        self._hooks: list[RemovableHandle] = []
        self.switch_lock = SwitchLock()
        # Another object after each switch. Unlike a flag, it shows a switch there and back.
        self.last_switch = object()
        self._without_prompts = False

    @abstractmethod
    def attach(self, owner: nn.Module) -> list[RemovableHandle]:
        """Register all hooks on the model; `owner` is the module of which this layer is a child."""

    @abstractmethod
    def like(self) -> torch.Tensor:
        """The tensor of the base model whose device and dtype new adapters take."""

    @property
    def adapters(self) -> nn.ModuleDict:
        """The adapters by name."""
        (container,) = self.adapter_layer_names
        return getattr(self, container)

    def update_layer(self, adapter_name: str, prompts: nn.Module, config: PromptConfig, owner: nn.Module) -> None:
        """Add an adapter; with the first one, also register the hooks. `owner` has this layer as a child."""
        self.adapters[adapter_name] = prompts
        if config.inference_mode:
            self._as_made[adapter_name] = _marks(prompts)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        if not self._hooks:
            self._hooks = self.attach(owner)

    def awaits_weights(self, adapter_name: str) -> bool:
        """True while the adapter awaits its checkpoint and still holds its random initial values."""
        return self._as_made.get(adapter_name) == _marks(self.adapters[adapter_name])

    def detach(self) -> None:
        """Remove all hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def active_name(self) -> Optional[str]:
        """The name of the active adapter, enabled or not; adapters of other methods may be active beside it."""
        adapters = self.adapters
        own = [name for name in self.active_adapters if name in adapters]
        return own[0] if own else None  # no next(..., None): torch 2.8 does not compile it

    def active_prompts(self) -> Optional[nn.Module]:
        """The adapter whose prompts the model gets now; None if it runs without prompts."""
        name = None if self.disable_adapters or self._without_prompts else self.active_name
        return None if name is None else self.adapters[name]

    @contextmanager
    def without_prompts(self) -> Iterator[None]:
        """
        Run the model without prompts inside of this block. Unlike PEFT's `disable_adapter`, it leaves `requires_grad`
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
        own = [name for name in names if name in self.adapters]
        if len(own) > 1:
            raise ValueError(
                f"{self.method} adapters {own} cannot be active together: each puts its own prompts in the same "
                "places. Activate one of them with set_adapter(name)."
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
            if not self.adapters:
                self.detach()

    def merge(self, safe_merge: bool = False, adapter_names: Optional[list[str]] = None) -> None:
        raise ValueError(NO_MERGE.format(self.method))

    def unmerge(self) -> None:
        raise ValueError(NO_MERGE.format(self.method))

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: Optional[torch.device] = None) -> None:
        if adapter_name not in self.adapters:
            return  # another method's: PEFT asks every tuner layer of the model to move it
        like = self.like()
        adapter = self.adapters[adapter_name]
        device = like.device if device is None else device
        if device.type == "meta" or any(parameter.is_meta for parameter in adapter.parameters()):
            return  # there are no numbers yet: the base is offloaded, or the adapter awaits its weights
        adapter.to(device, like.dtype if like.is_floating_point() else None)  # a quantized table has no dtype to take

    @property
    def weight(self) -> torch.Tensor:
        # PEFT's own property asks the wrapped layer for its weight; without one it recurses without end.
        raise AttributeError(f"{type(self).__name__} wraps no layer, so it has no weight.")

    @property
    def bias(self) -> torch.Tensor:
        raise AttributeError(f"{type(self).__name__} wraps no layer, so it has no bias.")

    def __repr__(self) -> str:
        return f"{self.method.lower()}.{super().__repr__()}"  # PEFT's status helpers read the method's name from it


def named_adapter(
    layer: Optional[PromptLayer], method: str, adapter_name: Optional[str] = None, way_out: str = ""
) -> tuple[PromptLayer, str]:
    """
    The layer, and the name of one of its adapters.

    Args:
        layer: the layer of a model; None if the model has none.
        method: the method's name in the message.
        adapter_name: the adapter; None for the active one.
        way_out: what the error advises.

    Raises:
        ValueError: if there is no such adapter.
    """
    name = layer.active_name if adapter_name is None and layer is not None else adapter_name
    if layer is None or name is None or name not in layer.adapters:
        asked = f"active {method} adapter" if name is None else f"{method} adapter {name!r}"
        names = [] if layer is None else list(layer.adapters)
        raise ValueError(f"The model has no {asked}; its {method} adapters are {names}. {way_out}".rstrip())
    return layer, name


def _marks(prompts: nn.Module) -> list[tuple[int, int]]:
    """Id and version of each tensor in an adapter's state dict; they change when it is replaced or written to."""
    return [(id(tensor), tensor._version) for tensor in prompts.state_dict(keep_vars=True).values()]
