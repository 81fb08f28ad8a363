"""`SDPTLayer`: the one module a detector gains, holding all its SDPT adapters and the hooks that read them."""

from __future__ import annotations

from typing import Optional, cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..prompt_layer import PromptLayer
from ..towers.base import part
from .families import FusionLayers
from .hooks import PromptedFusion
from .prototypes import FusionPrompts


class SDPTLayer(PromptLayer):
    """
    Holds all SDPT adapters of a detector, as a new child of its encoder. It registers hooks on the attention of each
    fusion layer, and these hooks ask it for the active adapter's prompts (see `hooks.FusionSource`).

    Args:
        fusion: the fusion layers of the detector.
    """

    method = "SDPT"
    adapter_layer_names = ("sdpt_adapters",)
    sdpt_adapters: nn.ModuleDict

    def __init__(self, fusion: FusionLayers) -> None:
        super().__init__(fusion)
        self.fusion = fusion  # a tuple, which does not register them: they stay where they are in the model

    def attach(self, owner: nn.Module) -> list[RemovableHandle]:
        return [
            hook
            for index, attention in enumerate(self.fusion.attentions)
            for hook in PromptedFusion(self, index, self.fusion.family).attach(attention)
        ]

    def like(self) -> torch.Tensor:
        return part(self.fusion.projection(0, "vision"), "weight")

    def num_tokens(self, layer: int) -> tuple[int, int]:
        adapter = self._prompts_of(layer)
        if adapter is None:
            return 0, 0
        return adapter.num_tokens, adapter.num_tokens if adapter.has_text_prompts else 0

    def prompts(self, layer: int) -> tuple[Optional[torch.Tensor], Optional[torch.Tensor]]:
        adapter = self._prompts_of(layer)
        return (None, None) if adapter is None else adapter(layer)

    def _prompts_of(self, layer: int) -> Optional[FusionPrompts]:
        """The active adapter, if it has prompts for this fusion layer."""
        adapter = cast(Optional[FusionPrompts], self.active_prompts())
        return adapter if adapter is not None and layer in adapter.layers else None


def sdpt_layer_of(model: nn.Module) -> Optional[SDPTLayer]:
    """The SDPT layer of a detector, also through a `PeftModel`; None if it has no SDPT adapter."""
    for module in model.modules():
        if isinstance(module, SDPTLayer):
            return module
    return None
