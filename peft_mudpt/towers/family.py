"""A model family: its two kinds of tower, and how the whole model computes logits from their features."""

from __future__ import annotations

from typing import Any, ClassVar, Optional

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PretrainedConfig

from ..config import Modality
from .base import IMAGES, POOLED_ONLY, PromptedTower, part
from .images import Images
from .text import PromptedText
from .vision import PromptedVision


class Family:
    """
    A family of dual encoders, which compare an image feature and a text feature by their cosine. The object holds no
    tensor and no module; its methods take the whole model as an argument.

    Attributes:
        model_class: the class of the whole model in transformers.
        text, vision: the `PromptedTower` subclasses of the two towers.
        return_loss_place: the place of `return_loss` among the arguments of the whole model's forward, from 0 on.
    """

    model_class: ClassVar[type[nn.Module]]
    text: ClassVar[type[PromptedText]]
    vision: ClassVar[type[PromptedVision]]
    return_loss_place: ClassVar[int] = 4

    @property
    def towers(self) -> dict[Modality, type[PromptedTower]]:
        """The `PromptedTower` subclasses of the two towers, by modality."""
        return {"text": self.text, "vision": self.vision}

    def text_tower(self, model: nn.Module) -> Any:
        """The text tower of a whole model."""
        return part(model, self.text.tower)

    def vision_tower(self, model: nn.Module) -> Any:
        """The vision tower of a whole model."""
        return part(model, self.vision.tower)

    def image_features(
        self,
        model: nn.Module,
        pixel_values: torch.Tensor,
        images: Optional[Images] = None,
        pooled_only: bool = False,
    ) -> torch.Tensor:
        """
        The features (B, D), not normalized, of images (B, 3, H, W). If `images` is given, the vision tower writes the
        weights of domains to it. With `pooled_only`, for a model with an adapter, the tower leaves out what its pooled
        output does not need, which changes the features by rounding errors.
        """
        options: dict[str, Any] = {} if images is None else {IMAGES: images}
        options |= {POOLED_ONLY: True} if pooled_only else {}
        pooled = self.vision.pooled(self.vision_tower(model)(pixel_values=pixel_values, **options))  # (B, d)
        return self.vision.project(model, pooled)

    def logit_scale(self, model: nn.Module) -> torch.Tensor:
        """The factor (a 0-d tensor, already exponentiated) that multiplies the cosine."""
        return part(model, "logit_scale").exp()

    def logit_bias(self, model: nn.Module) -> Optional[torch.Tensor]:
        """What is added to all logits (1,); None if the family has no such number."""
        return None

    def logits(self, model: nn.Module, cosine: torch.Tensor, shift: Optional[torch.Tensor] = None) -> torch.Tensor:
        """
        The logits for the cosines of image and text features; same shape as `cosine`, which may be any. `shift` (2,)
        is what an adapter adds to the model's logit scale and bias (see `prompts.logit_shift`); None: nothing.
        """
        logits, bias = cosine * self.logit_scale(model), self.logit_bias(model)
        logits = logits if bias is None else logits + bias
        return logits if shift is None else self.shifted(model, logits, shift)

    def shifted(self, model: nn.Module, logits: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """The logits (of any shape) with another scale and bias, from those of the model; see `logits`."""
        (scale, added), bias = shift.unbind(), self.logit_bias(model)
        if bias is not None:
            logits, added = logits - bias, bias + added
        return logits * scale.exp() + added

    def contrastive_loss(self, logits_per_text: torch.Tensor) -> torch.Tensor:
        """The loss of the model's own forward from the logits (B, B) of B texts for their B images."""
        own = torch.arange(len(logits_per_text), device=logits_per_text.device)
        return (cross_entropy(logits_per_text, own) + cross_entropy(logits_per_text.t(), own)) / 2

    def feature_size(self, config: PretrainedConfig) -> int:
        """Number of channels (D) of the features, from the config of a whole model."""
        return config.projection_dim

    def image_shape(self, config: PretrainedConfig) -> tuple[int, int, int]:
        """Channels, height and width (pixels) of the images, from the config of a whole model."""
        return self.vision.image_shape(config.vision_config)
