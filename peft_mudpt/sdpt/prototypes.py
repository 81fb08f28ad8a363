"""The parameters of one SDPT adapter, and how the prompts of each fusion layer are computed from them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Optional

import torch
from torch import nn

from .config import SDPTConfig
from .inverse import InverseProjection


class FusionPrompts(nn.Module):
    """
    Base class of an adapter's parameters.

    Args:
        config: a config that `SDPTConfig.resolve` has filled in.

    Attributes:
        layers: the fusion layers with prompts.
        num_tokens: number K of tokens per layer.
        has_text_prompts: False if the image does not see text prompts, so that there are none.
    """

    def __init__(self, config: SDPTConfig) -> None:
        super().__init__()
        self.layers, self.num_tokens = config.layers(), config.num_virtual_tokens
        self.has_text_prompts = not config.mask_text_prompts

    @abstractmethod
    def forward(self, layer: int) -> tuple[torch.Tensor, Optional[torch.Tensor]]:
        """
        The prompts of one fusion layer. Everything that the hooks ask for goes through this method, because FSDP has
        the weights of this module in memory only during its forward.

        Args:
            layer: one of `layers`.

        Returns:
            The prompts (K, d) of the image and of the text; None for the text if the image does not see them.
        """


class UnifiedPrototypes(FusionPrompts):
    """
    Prototypes of both streams' prompts (SDPT, arXiv 2407.11414; formulas as in its published code). U_k (K, D) are
    those of fusion layer k; W_v, b_v are its map from image tokens to queries, W_l, b_l that from text tokens to keys.
    The attention of the layer sees these prompts behind the image tokens and behind the text tokens:

        image   P_v = (U_k - b_v) pinv(W_v^T)
        text    P_l = (U_k - b_l) pinv(W_l^T)

    They are further keys and values for the other stream; what they would receive themselves is dropped. Both are
    projections of one U, but onto different subspaces of dimension d, so they are equal in the attention space only
    as far as these subspaces agree.

    Args:
        config: see `FusionPrompts`.

    Attributes:
        prototypes: U (layers, K, D).
        vision_inverse, text_inverse: the inverse projections, which the tuner sets; the latter is None if there are
            no text prompts.
    """

    vision_inverse: InverseProjection
    text_inverse: Optional[InverseProjection]

    def __init__(self, config: SDPTConfig) -> None:
        super().__init__(config)
        self.prototypes = _uniform(config, config.embed_dim)

    def forward(self, layer: int) -> tuple[torch.Tensor, Optional[torch.Tensor]]:
        index = self.layers.index(layer)
        own = self.prototypes[index]  # (K, D)
        return self.vision_inverse(index, own), None if self.text_inverse is None else self.text_inverse(index, own)


class DualPrompts(FusionPrompts):
    """
    Prompts of each stream by themselves, in its width d: learned without prototypes, or constants in a folded adapter.

    Args:
        config: see `FusionPrompts`.

    Attributes:
        vision_prompts, text_prompts: (layers, K, d); the latter is None if there are no text prompts.
    """

    vision_prompts: torch.Tensor
    text_prompts: Optional[torch.Tensor]

    def __init__(self, config: SDPTConfig) -> None:
        super().__init__(config)
        for name, is_there in (("vision_prompts", True), ("text_prompts", self.has_text_prompts)):
            if config.folded:  # buffers are saved and moved like parameters, and nothing can train them
                self.register_buffer(name, _zeros(config, config.hidden_size) if is_there else None)
            else:
                self.register_parameter(name, _uniform(config, config.hidden_size) if is_there else None)

    def forward(self, layer: int) -> tuple[torch.Tensor, Optional[torch.Tensor]]:
        index = self.layers.index(layer)
        text = self.text_prompts
        # copies, since views would lose their numbers when FSDP frees the weights
        return self.vision_prompts[index].clone(), None if text is None else text[index].clone()


def new_prompts(config: SDPTConfig) -> FusionPrompts:
    """The parameters of a new adapter."""
    return UnifiedPrototypes(config) if config.inverts_projections else DualPrompts(config)


def _zeros(config: SDPTConfig, width: Optional[int]) -> torch.Tensor:
    assert width, "SDPTConfig.resolve fills it in"
    return torch.zeros(len(config.layers()), config.num_virtual_tokens, width)


def _uniform(config: SDPTConfig, width: Optional[int]) -> nn.Parameter:
    return nn.Parameter(_zeros(config, width).uniform_(-config.init_range, config.init_range))
