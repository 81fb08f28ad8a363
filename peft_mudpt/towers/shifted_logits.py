"""The forward of a whole model whose adapter has learned a shift of the logit scale or bias."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from .base import PromptSource
from .family import Family


# A tuple (return_dict=False) has them in this order, with or without the loss.
OUTPUTS = (
    *("loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"),
    *("text_model_output", "vision_model_output"),
)


class ShiftedLogits:
    """
    The hook on a whole model that shifts the logits of its forward, and computes the loss from them again. Without a
    learned shift, it changes nothing.

    Args:
        source: the object that the hook asks for the shift.
        family: the family of the model.
    """

    def __init__(self, source: PromptSource, family: Family):
        self.source = source
        self.family = family

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Register the hook. Those that make other logits must be registered before."""
        return [model.register_forward_hook(self.shift_logits)]

    def shift_logits(self, model: nn.Module, args: tuple, output: Any) -> Any:
        """Replace the logits, and the loss if there is one."""
        shift = self.source.logit_shift()
        if shift is None:
            return None
        named = dict(zip(OUTPUTS[-len(output) :], output)) if isinstance(output, tuple) else output
        if named.get("logits_per_image") is None:  # TIPSv2 may run with one of its towers alone
            return None
        per_image = self.family.shifted(model, named["logits_per_image"], shift)  # (B, C)
        named["logits_per_image"], named["logits_per_text"] = per_image, per_image.t()
        if named.get("loss") is not None:
            named["loss"] = self.family.contrastive_loss(per_image.t())
        return tuple(named.values()) if isinstance(output, tuple) else output
