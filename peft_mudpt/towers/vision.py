"""Base class with what the vision towers of all families share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar, Optional

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PretrainedConfig

from .base import PromptedTower, part


class PromptedVision(PromptedTower):
    """
    Sequence: [CLS, patches, prompts], or [patches, prompts] if there is no CLS. The prompts get no position embedding.
    If the tower has a LayerNorm before the encoder, it normalizes the input prompts too. A head that pools over tokens
    does not see the prompts, because they are removed before it.

    Attributes:
        patch_embedding: where the embeddings keep the convolution that maps images to patches (B, d, h, w).
        tokens_before_patches: how many tokens stand before the patches (CLS, or none).
    """

    modality = "vision"
    tower: ClassVar[str] = "vision_model"
    projection: ClassVar[Optional[str]] = "visual_projection"
    patch_embedding: ClassVar[str] = "patch_embedding"
    tokens_before_patches: ClassVar[int] = 1

    @classmethod
    def split(cls, hidden: torch.Tensor, n: int) -> tuple[Optional[torch.Tensor], Optional[torch.Tensor]]:
        return hidden[:, : hidden.shape[1] - n], None

    @classmethod
    def image_shape(cls, config: PretrainedConfig) -> tuple[int, int, int]:
        """Channels, height and width (pixels) of the images, from the config of a tower."""
        size = config.image_size
        return (config.num_channels, size, size) if isinstance(size, int) else (config.num_channels, *size)

    @classmethod
    def watch_patches(
        cls, tower: nn.Module, layers: Iterable[int], see: Callable[[int, torch.Tensor], None]
    ) -> list[RemovableHandle]:
        """
        Register hooks that pass the tokens of the patches to `see`, with the index of the layer, in every forward of a
        tower that runs without prompts.

        Args:
            tower: the tower.
            layers: indices of layers. Layer 0 stands for the input: its tokens are the embedded patches, before a
                position embedding or a LayerNorm. The tokens of another layer are those that it receives, without CLS.
            see: takes the index of a layer, and the tokens (B, L, d) of L patches.
        """

        def at_input(module: nn.Module, args: tuple, patches: torch.Tensor) -> None:
            see(0, patches.flatten(2).transpose(1, 2))  # (B, d, h, w) -> (B, h * w, d)

        def at_layer(index: int, module: nn.Module, args: tuple) -> None:
            see(index, args[0][:, cls.tokens_before_patches :])  # (B, L, d)

        blocks = part(part(tower, cls.encoder), cls.layers)
        return [
            blocks[index].register_forward_pre_hook(partial(at_layer, index))
            if index
            else part(tower, f"{cls.embeddings}.{cls.patch_embedding}").register_forward_hook(at_input)
            for index in layers
        ]
