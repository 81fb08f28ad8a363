"""Base class with what the vision towers of all families share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar, Optional

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PretrainedConfig

from ..config import TowerShape
from .base import IMAGES, PromptedTower, part
from .domains import domain_weights


REENTRANT = (
    "The active adapter weighs domains inside of the last layer of the vision tower, and reentrant gradient "
    "checkpointing would lose their gradient. Turn it on with use_reentrant=False."
)


class PromptedVision(PromptedTower):
    """
    Sequence: [CLS, patches, prompts], or [patches, prompts] if there is no CLS. The prompts get no position embedding.
    If the tower has a LayerNorm before the encoder, it normalizes the input prompts too. A head that pools over tokens
    does not see the prompts, because they are removed before it.

    Attributes:
        patch_embedding: where the embeddings keep the convolution that maps images to patches (B, d, h, w).
        tokens_before_patches: how many tokens stand before the patches (CLS, or none), registers aside.
        num_heads: where the attention of a layer keeps its number of heads.
    """

    modality = "vision"
    tower: ClassVar[str] = "vision_model"
    projection: ClassVar[Optional[str]] = "visual_projection"
    patch_embedding: ClassVar[str] = "patch_embedding"
    tokens_before_patches: ClassVar[int] = 1
    num_heads: ClassVar[str] = "num_heads"

    @classmethod
    def split(cls, hidden: torch.Tensor, n: int) -> tuple[Optional[torch.Tensor], Optional[torch.Tensor]]:
        return hidden[:, : hidden.shape[1] - n], None

    @classmethod
    def image_shape(cls, config: PretrainedConfig) -> tuple[int, int, int]:
        """Channels, height and width (pixels) of the images, from the config of a tower."""
        size = config.image_size
        return (config.num_channels, size, size) if isinstance(size, int) else (config.num_channels, *size)

    @classmethod
    def image_size(cls, config: PretrainedConfig) -> Optional[int]:
        """Pixels of both sides of the images, from the config of a tower; None if they are no squares of one size."""
        _, height, width = cls.image_shape(config)
        return height if height == width else None

    @classmethod
    def shape(cls, tower: nn.Module) -> TowerShape:
        return super().shape(tower)._replace(image_size=cls.image_size(part(tower, "config")))

    @classmethod
    def resize(cls, tower: nn.Module, image_size: int) -> None:
        """Interpolate the position embeddings of a tower for images of another size, a multiple of the patch size."""
        embeddings = part(tower, cls.embeddings)
        positions = part(embeddings, cls.position_embedding)
        if not isinstance(positions, nn.Embedding):
            raise ValueError(
                f"The position embeddings are in a {type(positions).__name__}, which an adapter has put there. Set "
                "the size of the images before the adapter is added."
            )
        num_patches = (image_size // part(embeddings, "patch_size")) ** 2
        tokens = positions.weight.new_empty(1, cls.tokens_before_patches + num_patches, positions.embedding_dim)
        # the family's own rule, which reads only the number of tokens
        table = embeddings.interpolate_pos_encoding(tokens, image_size, image_size)[0]  # (L, d)
        positions.weight = nn.Parameter(table.clone(), requires_grad=positions.weight.requires_grad)
        positions.num_embeddings = embeddings.num_positions = len(table)
        embeddings.position_ids = torch.arange(len(table), device=table.device)[None]  # (1, L)
        embeddings.num_patches, embeddings.image_size = num_patches, image_size

    @classmethod
    def first_patch(cls, tower: nn.Module) -> int:
        """The place of the first patch in the sequence of a tower."""
        return cls.tokens_before_patches

    @classmethod
    def pooled_tokens(cls, hidden: torch.Tensor, which: bool) -> torch.Tensor:
        return hidden[:, :1]  # the class token of each image

    def prepare(self, tower: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Also refuse an attention mask, which does not say who sees the prompts."""
        if self.source.num_tokens("vision") and kwargs.get("attention_mask") is not None:
            raise ValueError(
                "attention_mask has no columns for the vision prompts. Leave it out, or disable the adapter."
            )
        return super().prepare(tower, args, kwargs)

    def remove(self, encoder: nn.Module, args: tuple, output):
        if self.can_be_shortened and output.last_hidden_state.shape[1] == 1:
            return output  # the last layer has left the class token only
        return super().remove(encoder, args, output)

    def hand_down(self, encoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Pass `Images` to the layers too, if the active adapter has domains."""
        images = kwargs.get(IMAGES)
        args, kwargs = super().hand_down(encoder, args, kwargs)
        if images is None or not self.source.num_domains:
            return args, kwargs
        images.last_layer = len(part(encoder, self.layers)) - 1
        images.with_gradients = torch.is_grad_enabled()
        return args, {**kwargs, IMAGES: images}

    def overwrite(self, index: int, layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """In the last layer, also compute the weights of the domains from its input."""
        images = kwargs.pop(IMAGES, None)
        args, kwargs = super().overwrite(index, layer, args, kwargs)
        if images is not None and index == images.last_layer:
            if images.with_gradients and not torch.is_grad_enabled():
                raise ValueError(REENTRANT)
            hidden = part(layer, self.attention_norm)(args[0])  # (B, L + K, d)
            attention = part(layer, self.attention)
            query = attention.q_proj(hidden[:, 0])  # (B, d), of the class token
            keys = attention.k_proj(hidden[:, hidden.shape[1] - self.source.num_domains :])  # (B, K, d)
            heads = part(attention, self.num_heads)
            images.domain_weights = domain_weights(query, keys, heads, self.source.domain_temperature)
        return args, kwargs

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
            see(index, args[0][:, first:])  # (B, L, d)

        first = cls.first_patch(tower)
        blocks = part(part(tower, cls.encoder), cls.layers)
        return [
            blocks[index].register_forward_pre_hook(partial(at_layer, index))
            if index
            else part(tower, f"{cls.embeddings}.{cls.patch_embedding}").register_forward_hook(at_input)
            for index in layers
        ]
