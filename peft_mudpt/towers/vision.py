"""Base class with what the vision towers of all families share."""

from __future__ import annotations

from typing import ClassVar, Optional

import torch

from .base import PromptedTower


class PromptedVision(PromptedTower):
    """
    Sequence: [CLS, patches, prompts], or [patches, prompts] if there is no CLS. The prompts get no position embedding.
    If the tower has a LayerNorm before the encoder, it normalizes the input prompts too. A head that pools over tokens
    does not see the prompts, because they are removed before it.
    """

    modality = "vision"
    tower: ClassVar[str] = "vision_model"
    projection: ClassVar[Optional[str]] = "visual_projection"

    @classmethod
    def split(cls, hidden: torch.Tensor, n: int) -> tuple[Optional[torch.Tensor], Optional[torch.Tensor]]:
        return hidden[:, : hidden.shape[1] - n], None
