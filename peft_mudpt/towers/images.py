"""`Images`: what the vision tower tells about the images of one forward call."""

from __future__ import annotations

from typing import Optional

import torch
from torch import nn


class Images:
    """
    Takes what text features depend on from the vision tower to where it is used, in one forward call. It is passed as
    an argument, so that the hooks hold no state.

    Args:
        model: the whole model.

    Attributes:
        features: the features (B, D) of the images, not normalized, if text prompts depend on the image.
        domain_weights: the weights (B, K) of K domains, if the active adapter has domains.
        last_layer: index of the vision tower's last layer, in which the weights are computed.
        with_gradients: whether the tower was called with gradients enabled.
    """

    features: Optional[torch.Tensor] = None
    domain_weights: Optional[torch.Tensor] = None
    last_layer: int
    with_gradients: bool

    def __init__(self, model: nn.Module):
        self.model = model
