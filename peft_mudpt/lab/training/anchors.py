"""Anchors: losses that hold an adapted CLIP near the frozen one, as functions of tensors for any training loop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import cosine_similarity, kl_div, normalize

from ...rules import one_of


TEXT_ANCHORS = ("l1", "cosine")
KIND = one_of(*TEXT_ANCHORS)


def text_anchor(class_features: torch.Tensor, text_bank: torch.Tensor, kind: str = "l1") -> torch.Tensor:
    """
    The distance of the adapted class features from those of the frozen CLIP.

    Args:
        class_features: features (C, D) of C classes, of any norm.
        text_bank: features (C, D) of the same classes by the frozen CLIP, of any norm (see `text_bank`).
        kind: "l1": the mean absolute difference of all C * D entries, after each feature is divided by its L2 norm
            (PromptSRC, arXiv 2307.06948, equation 3). "cosine": one minus the mean cosine (TCP, arXiv 2311.18231).

    Returns:
        The distance, a scalar tensor.

    Raises:
        ValueError: if `kind` is unknown.
    """
    KIND.check(kind, "kind")
    if kind == "cosine":
        return 1 - cosine_similarity(class_features, text_bank, dim=-1).mean()
    return _mean_difference(class_features, text_bank)


def image_anchor(image_features: torch.Tensor, frozen_image_features: torch.Tensor) -> torch.Tensor:
    """
    The distance of the adapted image features from those of the frozen CLIP (PromptSRC, arXiv 2307.06948, equation 3).

    Args:
        image_features: features (B, D) of B images, of any norm.
        frozen_image_features: features (B, D) of the same images by the frozen CLIP, of any norm.

    Returns:
        The mean absolute difference of all B * D entries, after each feature is divided by its L2 norm.
    """
    return _mean_difference(image_features, frozen_image_features)


def logit_anchor(logits: torch.Tensor, frozen_logits: torch.Tensor) -> torch.Tensor:
    """
    The Kullback-Leibler divergence of the class probabilities from those of the frozen CLIP (PromptSRC, arXiv
    2307.06948, equation 4).

    Args:
        logits: logits (B, C) of B images and C classes.
        frozen_logits: logits (B, C) of the same images and classes by the frozen CLIP.

    Returns:
        The sum of p0 * log(p0 / p) over images and classes, p0 being the frozen probabilities, divided by B * C. This
        is the divisor of the published code, not B.
    """
    return kl_div(logits.log_softmax(-1), frozen_logits.log_softmax(-1), reduction="none", log_target=True).mean()


def _mean_difference(features: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
    return (normalize(features, dim=-1) - normalize(frozen, dim=-1)).abs().mean()


@dataclass(frozen=True)
class Anchors:
    """
    The weights of the anchors in the loss of a run. An anchor of weight 0 is not computed.

    Args:
        text_anchor: kind of the text anchor, one of `TEXT_ANCHORS`.
        text_anchor_weight, image_anchor_weight, logit_anchor_weight: the weights, at least 0.

    Raises:
        ValueError: if the kind of text anchor is unknown, or if a weight is negative or not finite.
    """

    text_anchor: str = "l1"
    text_anchor_weight: float = 0.0
    image_anchor_weight: float = 0.0
    logit_anchor_weight: float = 0.0

    def __post_init__(self):
        KIND.check(self.text_anchor, "text_anchor")
        for name in ("text_anchor_weight", "image_anchor_weight", "logit_anchor_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} is not a finite number of at least 0.")

    @property
    def need_texts(self) -> bool:
        """True if the text bank of the frozen CLIP is needed."""
        return self.text_anchor_weight > 0 or self.logit_anchor_weight > 0

    @property
    def need_images(self) -> bool:
        """True if image features of the frozen CLIP are needed."""
        return self.image_anchor_weight > 0 or self.logit_anchor_weight > 0

    def __bool__(self) -> bool:
        return self.need_texts or self.need_images
