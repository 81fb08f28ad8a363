"""Tip-Adapter, a classifier that is made from the training pictures without optimizer steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

import torch
from torch.nn.functional import one_hot
from transformers import BaseImageProcessor, PreTrainedModel

from ..rules import number
from .heads import Head


STRENGTH = number(0, 10_000)


class Cache(torch.nn.Module):
    """
    The N training pictures that a Tip-Adapter remembers, and what it compares with them.

    Args:
        class_features: normalized text features (C, D) of the classes.
        alpha, beta: see `TipAdapter`.
    """

    class_features: torch.Tensor  # (C, D)
    image_features: torch.Tensor  # (N, D)
    labels: torch.Tensor  # (N,)
    alpha: torch.Tensor
    beta: torch.Tensor

    def __init__(self, class_features: torch.Tensor, alpha: float, beta: float):
        super().__init__()
        tensors = {
            "class_features": class_features,
            "image_features": class_features.new_empty(0, class_features.shape[1]),
            "labels": torch.empty(0, dtype=torch.long, device=class_features.device),
            "alpha": class_features.new_tensor(alpha),
            "beta": class_features.new_tensor(beta),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """What is added to the logits (B, C) of B images with normalized features (B, D)."""
        similarity = torch.exp(self.beta * (image_features @ self.image_features.t() - 1))  # (B, N)
        votes = one_hot(self.labels, len(self.class_features)).to(similarity.dtype)  # (N, C)
        return self.alpha * (similarity @ votes)


class TipAdapter(Head):
    """
    Adds to the logits of zero-shot CLIP what similar training pictures say (training-free Tip-Adapter, arXiv
    2111.03930, section 3.2).

    For normalized features f of an image, F (N, D) of the training pictures and W (C, D) of the class texts, and for
    the labels L (N, C) as one-hot rows, the logits are `logits(f W^T) + alpha exp(-beta (1 - f F^T)) L`. Here `logits`
    multiplies by the logit scale of the CLIP (100 in OpenAI's), but alpha is not multiplied by it, as in the paper's
    released code. Before `remember` was called, the logits are those of zero-shot CLIP.

    Args:
        model, class_names, image_processor: see `Head`.
        class_features: normalized text features (C, D) of the classes; None: they are loaded later (`load_learned`).
        alpha: weight of the training pictures.
        beta: how much less a picture counts if it is less similar.

    Raises:
        ValueError: if alpha or beta is no number from 0 to 10,000.
    """

    words = "a Tip-Adapter"
    file = "tip_adapter.safetensors"
    head: Cache

    def __init__(
        self,
        model: PreTrainedModel,
        class_names: Sequence[str],
        image_processor: Optional[BaseImageProcessor] = None,
        class_features: Optional[torch.Tensor] = None,
        alpha: float = 1.0,
        beta: float = 5.5,
    ):
        super().__init__(model, class_names, image_processor)
        STRENGTH.check(alpha, "alpha")
        STRENGTH.check(beta, "beta")
        if class_features is None:
            class_features = torch.zeros(len(self.class_names), self.family.feature_size(model.config))
        self.head = Cache(class_features, alpha, beta)

    def remember(self, image_features: torch.Tensor, labels: torch.Tensor) -> None:
        """
        Remember the training pictures.

        Args:
            image_features: their normalized features (N, D).
            labels: their class indices (N,).
        """
        device = self.head.class_features.device
        self.head.image_features, self.head.labels = image_features.to(device), labels.to(device)

    def load_learned(self, tensors: Mapping[str, torch.Tensor]) -> None:
        room = len(tensors.get("labels", ()))
        size = self.head.class_features.shape[1]
        self.remember(torch.zeros(room, size), torch.zeros(room, dtype=torch.long))
        super().load_learned(tensors)

    def linear_head(self) -> tuple[torch.Tensor, Optional[torch.Tensor]]:
        """Raises a ValueError, because a Tip-Adapter is not linear in the image features."""
        raise ValueError(
            "A Tip-Adapter cannot be exported, because its logits are not linear in image features. Export another "
            "method, such as linear_probe."
        )

    def logits(self, image_features: torch.Tensor) -> torch.Tensor:
        cosine = image_features @ self.head.class_features.t()  # (B, C)
        return self.family.logits(self.model, cosine) + self.head(image_features)
