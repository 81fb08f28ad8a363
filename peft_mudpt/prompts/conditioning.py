"""Makes text prompts depend on an image (CoCoOp) or on a class (TCP): a meta-net maps a feature to tokens."""

from __future__ import annotations

from typing import Optional

import torch
from torch import nn
from torch.nn.functional import normalize
from transformers.activations import QuickGELUActivation


def check_condition(condition: torch.Tensor, feature_size: int) -> None:
    """Raise a ValueError unless the condition of B text prompts is (B, feature_size), in floating point."""
    if not isinstance(condition, torch.Tensor):
        given = f"of type {type(condition).__name__}"
    elif condition.dim() != 2 or condition.shape[1] != feature_size or not condition.is_floating_point():
        given = f"a tensor {tuple(condition.shape)} of {condition.dtype}"
    else:
        return
    raise ValueError(
        f"The condition of the text prompts (mudpt_condition) is {given}, but must be (texts, {feature_size}) in "
        "floating point: one feature of the CLIP for each text."
    )


class MetaNet(nn.Module):
    """
    Two linear layers that map features to vectors of the text tower.

    Args:
        feature_size: number of channels (D) of the features.
        reduction: the hidden layer has D / `reduction` channels, at least 1.
        output_size: number of channels of the output.
        activation: the function between the layers.

    `forward` maps (B, D) to (B, output_size).
    """

    def __init__(self, feature_size: int, reduction: int, output_size: int, activation: nn.Module):
        super().__init__()
        self.feature_size = feature_size
        hidden_size = max(1, feature_size // reduction)
        self.linear1 = nn.Linear(feature_size, hidden_size)
        self.activation = activation
        self.linear2 = nn.Linear(hidden_size, output_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear2(self.activation(self.linear1(features.to(self.linear1.weight))))

    def make_constant(self) -> None:
        """Turn the parameters into buffers of the same names, which nothing trains."""
        for linear in (self.linear1, self.linear2):
            for name, parameter in list(linear.named_parameters()):
                delattr(linear, name)
                linear.register_buffer(name, parameter.detach())


class ImageShift(nn.Module):
    """
    The meta-net of CoCoOp (arXiv 2203.05557): one vector per image, which is added to all text prompts of one layer.

    Args:
        layer: the layer whose prompts are shifted.
        feature_size, reduction: see `MetaNet`.
        width: width (d) of the text tower.
        noise: True if the meta-net reads noise in place of the features. This is a control, which tells whether the
            features matter.
    """

    def __init__(self, layer: int, feature_size: int, reduction: int, width: int, noise: bool = False):
        super().__init__()
        self.layer = layer
        self.meta_net = MetaNet(feature_size, reduction, width, nn.ReLU())
        self.noise = noise

    def condition(self, image_features: torch.Tensor) -> torch.Tensor:
        """
        What the meta-net reads for B images: their features (B, D), or noise of this shape. In training, noise is a
        random direction per image, drawn by torch's generator; otherwise it is the same for all images, so that a
        prediction depends neither on the image nor on its batch.
        """
        if not self.noise:
            return image_features
        return torch.randn_like(image_features) if self.training else torch.ones_like(image_features)

    def forward(self, prompts: torch.Tensor, layers: range, features: torch.Tensor) -> torch.Tensor:
        """
        Shift the prompts (1, len(layers), n, d) of these layers to (B, len(layers), n, d). The meta-net reads the
        features (B, D), normalized. Layers other than the shifted one keep their prompts.
        """
        if self.layer not in layers:
            return prompts
        shift = self.meta_net(normalize(features.to(self.meta_net.linear1.weight), dim=-1))  # (B, d)
        shifted = [
            prompts[:, i : i + 1] + shift[:, None, None]  # (B, 1, n, d)
            if layer == self.layer
            else prompts[:, i : i + 1].expand(features.shape[0], -1, -1, -1)
            for i, layer in enumerate(layers)
        ]
        return torch.cat(shifted, dim=1) if len(shifted) > 1 else shifted[0]


class ClassTokens(nn.Module):
    """
    The meta-net of TCP (arXiv 2311.18231): n tokens per class, which replace the text prompts in one layer.

    Args:
        layer: the layer before which the tokens replace the prompts; None if it is not known yet.
        num_tokens: number of tokens (n).
        feature_size, reduction: see `MetaNet`.
        width: width (d) of the text tower.
    """

    def __init__(self, layer: Optional[int], num_tokens: int, feature_size: int, reduction: int, width: int):
        super().__init__()
        self.layer = layer
        self.num_tokens = num_tokens
        self.meta_net = MetaNet(feature_size, reduction, num_tokens * width, QuickGELUActivation())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map the text features (C, D) of C classes in the frozen CLIP, of any length, to tokens (C, n, d)."""
        tokens = self.meta_net(normalize(features, dim=-1))  # (C, n * d)
        return tokens.unflatten(-1, (self.num_tokens, -1))  # (C, n, d)
