"""`MuDPTLayer`: the one module a CLIP gains, holding all its MuDPT adapters and the hooks that read them."""

from __future__ import annotations

from typing import Optional, cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .config import Modality
from .prompt_layer import LAYER_NAME, PromptLayer, named_adapter
from .prompts.prompts import MultiModalPrompts
from .towers.family import Family
from .towers.per_image import TextPerImage
from .towers.registry import Tower, whole_family
from .towers.shifted_logits import ShiftedLogits


class MuDPTLayer(PromptLayer):
    """
    Holds all MuDPT adapters of a model, as a new child of the module that contains the towers (the text and vision
    encoders). It registers hooks on the towers, and these hooks ask it for the active adapter's prompts (see
    `towers.base.PromptSource`).

    Args:
        towers: the towers of the model, by modality.
    """

    method = "MuDPT"
    adapter_layer_names = ("mudpt_adapters",)
    mudpt_adapters: nn.ModuleDict

    def __init__(self, towers: dict[Modality, Tower]) -> None:
        super().__init__(towers)
        self.towers = towers  # in a plain dict, which does not register them: they stay where they are in the model

    def attach(self, owner: nn.Module) -> list[RemovableHandle]:
        family, hooks = whole_family(owner), list[RemovableHandle]()
        if family is not None:  # first: the towers' own hooks then see one text per image
            hooks = [*TextPerImage(self, family).attach(owner), *ShiftedLogits(self, family).attach(owner)]
        return hooks + [hook for tower in self.towers.values() for hook in tower.kind(self).attach(tower.module)]

    def like(self) -> torch.Tensor:
        tower = next(iter(self.towers.values()))
        return tower.kind.like(tower.module)

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
        return 0 if adapter is None or adapter.class_contexts is None else len(adapter.class_contexts)

    @property
    def num_domains(self) -> int:
        adapter = self._active_prompts()
        return 0 if adapter is None or adapter.domain_contexts is None else len(adapter.domain_contexts)

    @property
    def domain_temperature(self) -> float:
        adapter = self._active_prompts()
        assert adapter is not None, "asked only if there are domains"
        return adapter.domain_temperature

    def logit_shift(self) -> Optional[torch.Tensor]:
        adapter = self._active_prompts()
        return None if adapter is None or adapter.logit_shift is None else adapter("logits")

    def _active_prompts(self) -> Optional[MultiModalPrompts]:
        return cast(Optional[MultiModalPrompts], self.active_prompts())


def layer_of(model: nn.Module) -> Optional[MuDPTLayer]:
    """The MuDPT layer of a CLIP or of a tower, also through a `PeftModel`; None if it has no MuDPT adapter."""
    return getattr(model, LAYER_NAME, None)


def logit_shift_of(model: nn.Module) -> Optional[torch.Tensor]:
    """What the active adapter of a CLIP adds to its logit scale and bias (2,); None: nothing."""
    layer = layer_of(model)
    return None if layer is None else layer.logit_shift()


def logit_scale_of(model: nn.Module, family: Family) -> torch.Tensor:
    """The factor (a 0-d tensor) that multiplies the cosine in a CLIP of this family and its active adapter."""
    scale, shift = family.logit_scale(model), logit_shift_of(model)
    return scale if shift is None else scale * shift[0].exp()


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
    layer, name = named_adapter(layer_of(model), MuDPTLayer.method, adapter_name, way_out)
    return cast(MuDPTLayer, layer), name
