"""The linear probe, a baseline that the lab compares with prompts."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from ..classifier.classifier import MuDPTClassifierOutput
from ..towers.registry import family_of


class LinearProbe(torch.nn.Module):
    """
    One linear layer on the frozen, normalized image features (CLIP, arXiv 2103.00020, section 3.2).

    The probe can only name the classes it was trained on. Its logits are multiplied by the logit scale of the CLIP,
    so that their range is similar to that of the CLIP's logits.

    Args:
        clip: the CLIP, which is frozen in place.
        num_classes: number of classes (C).
    """

    def __init__(self, clip: PreTrainedModel, num_classes: int):
        super().__init__()
        self.clip = clip.requires_grad_(False)
        self.config = clip.config
        self.family = family_of(clip)
        self.head = torch.nn.Linear(self.family.feature_size(clip.config), num_classes)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, pixel_values: torch.Tensor) -> MuDPTClassifierOutput:
        """Compute the `logits` (B, C) and the normalized `image_features` (B, D) of B images (B, 3, H, W)."""
        with torch.no_grad():
            features = normalize(self.family.image_features(self.clip, pixel_values), dim=-1)  # (B, D)
        logits = self.family.logit_scale(self.clip) * self.head(features)  # (B, C)
        return MuDPTClassifierOutput(logits=logits, image_features=features)
