"""
The forward hooks that append prompts to both streams of a fusion layer's attention, and remove them from its outputs.

They stand inside the fusion layer, behind its layer norms. The rest of the detector sees streams of the usual length:
the text enhancer, the deformable attention (which takes only tokens with a place in the picture), masks and positions.
The hooks hold no tensor and no module, only a `FusionSource`, which they ask for prompts in every call.
"""

from __future__ import annotations

from typing import Optional, Protocol

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .families import FusionFamily


class FusionSource(Protocol):
    """The object that the hooks ask for the prompts of the active adapter."""

    def num_tokens(self, layer: int) -> tuple[int, int]:
        """Number of prompt tokens behind the image and behind the text in this fusion layer at present."""

    def prompts(self, layer: int) -> tuple[Optional[torch.Tensor], Optional[torch.Tensor]]:
        """The prompts (K, d) behind the image and behind the text in this fusion layer; None for no prompts."""


class PromptedFusion:
    """
    The hooks of one fusion layer's attention.

    Args:
        source: the object that the hooks ask for prompts.
        layer: the fusion layer, counted from 0.
        family: how the attention names its arguments.
    """

    def __init__(self, source: FusionSource, layer: int, family: FusionFamily) -> None:
        self.source, self.layer, self.family = source, layer, family

    def attach(self, attention: nn.Module) -> list[RemovableHandle]:
        """Register the hooks on the attention."""
        return [
            attention.register_forward_pre_hook(self.append, with_kwargs=True),
            attention.register_forward_hook(self.remove),
        ]

    def append(self, attention: nn.Module, args: tuple, kwargs: dict) -> Optional[tuple[tuple, dict]]:
        """Append the prompts to the streams, and to each mask that is given: prompts are no padding."""
        prompts = self.source.prompts(self.layer)
        if prompts[0] is None and prompts[1] is None:
            return None
        named = {**dict(zip(self.family.arguments, args)), **kwargs}
        streams, masks = self.family.arguments[:2], self.family.arguments[2:]
        for stream, mask, own in zip(streams, masks, prompts):
            if own is None:
                continue
            tokens, padding = named[stream], named.get(mask)
            batch_size = tokens.shape[0]
            own = own.to(tokens).expand(batch_size, -1, -1)  # (K, d) -> (B, K, d)
            named[stream] = torch.cat([tokens, own], dim=1)  # (B, N + K, d)
            if padding is not None:  # (B, N), True at padding
                named[mask] = torch.cat([padding, padding.new_zeros(batch_size, own.shape[1])], dim=1)  # (B, N + K)
        return (), named

    def remove(self, attention: nn.Module, args: tuple, output: tuple) -> Optional[tuple]:
        """Remove what the prompts have received, and their rows and columns in the attention maps."""
        n_vision, n_text = self.source.num_tokens(self.layer)
        if not (n_vision or n_text):
            return None
        (vision, vision_map), (text, text_map) = output  # (B, N + K, d) and (B * heads, N + K, M + K) each
        return (
            (_shortened(vision, 1, n_vision), _shortened(_shortened(vision_map, 1, n_vision), 2, n_text)),
            (_shortened(text, 1, n_text), _shortened(_shortened(text_map, 1, n_text), 2, n_vision)),
        )


def _shortened(tensor: torch.Tensor, axis: int, n: int) -> torch.Tensor:
    """The tensor without the last n entries of one axis."""
    return tensor.narrow(axis, 0, tensor.shape[axis] - n) if n else tensor
