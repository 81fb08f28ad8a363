"""The linear probe, which the lab compares prompts with."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


class LinearProbe(torch.nn.Module):
    """
    One linear layer on the frozen, normalized image features (CLIP, arXiv 2103.00020, section 3.2).

    It can name the classes it was trained on, and no others. Its logits are scaled like CLIP's, so that they start in
    the range of CLIP's.
    """

    def __init__(self, clip: PreTrainedModel, num_classes: int):
        super().__init__()
        self.clip = clip.requires_grad_(False)
        self.config = clip.config
        config = clip.config  # SigLIP projects texts alone
        width = config.projection_dim if hasattr(config, "projection_dim") else config.text_config.projection_size
        self.head = torch.nn.Linear(width, num_classes)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutputWithNoAttention:
        """The `logits` (B, C) of images (B, 3, H, W)."""
        with torch.no_grad():
            features = normalize(
                self.clip.get_image_features(pixel_values=pixel_values).pooler_output, dim=-1
            )  # (B, D)
        return ImageClassifierOutputWithNoAttention(logits=self.clip.logit_scale.exp() * self.head(features))
