"""What the vision towers of all families share."""

from __future__ import annotations

from typing import ClassVar, Optional

import torch

from .base import PromptedTower


class PromptedVision(PromptedTower):
    """
    Sequence: [CLS, patches, prompts], or [patches, prompts] if there is no CLS. The prompts have no position; they
    pass the norm before the encoder, if there is one, with the other tokens. A head that pools over tokens does not
    get them.
    """

    modality = "vision"
    tower: ClassVar[str] = "vision_model"
    projection: ClassVar[Optional[str]] = "visual_projection"

    @classmethod
    def split(cls, hidden: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        length = hidden.shape[1]
        return hidden[:, : length - n], hidden[:, length:]
