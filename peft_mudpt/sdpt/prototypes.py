"""The parameters of one SDPT adapter, and how the prompts of each fusion layer are computed from them."""

from __future__ import annotations

from typing import Optional

import torch
from torch import nn

from .config import SDPTConfig
from .inverse import InverseProjection


class UnifiedPrototypes(nn.Module):
    """
    The parameters of one adapter (SDPT, arXiv 2407.11414; formulas as in its published code). U_k (K, D) are the
    prototypes of fusion layer k; W_v, b_v are its map from image tokens to queries, W_l, b_l that from text tokens to
    keys. The attention of the layer sees these prompts behind the image tokens and behind the text tokens:

        image   P_v = (U_k - b_v) pinv(W_v^T)
        text    P_l = (U_k - b_l) pinv(W_l^T)

    They are further keys and values for the other stream; what they would receive themselves is dropped. Both are
    projections of one U, but onto different subspaces of dimension d, so they are equal in the attention space only
    as far as these subspaces agree.

    Args:
        config: a config that `SDPTConfig.resolve` has filled in.

    Attributes:
        prototypes: U (layers, K, D); a folded adapter has `vision_prompts` and `text_prompts` (layers, K, d) instead.
        layers: the fusion layers with prompts.
        num_tokens: number K of tokens per layer.
        has_text_prompts: False if the image does not see text prompts, so that they are not computed.
        vision_inverse, text_inverse: the inverse projections, which the tuner sets; None in a folded adapter.
    """

    vision_prompts: torch.Tensor
    text_prompts: Optional[torch.Tensor]
    vision_inverse: Optional[InverseProjection]
    text_inverse: Optional[InverseProjection]

    def __init__(self, config: SDPTConfig) -> None:
        super().__init__()
        assert config.hidden_size and config.embed_dim, "SDPTConfig.resolve fills them in"
        self.layers, self.num_tokens = config.layers(), config.num_virtual_tokens
        self.has_text_prompts = not config.mask_text_prompts
        self.vision_inverse = self.text_inverse = None
        if config.folded:  # constants: buffers are saved and moved like parameters, and nothing can train them
            shape = len(self.layers), self.num_tokens, config.hidden_size
            self.register_buffer("vision_prompts", torch.zeros(shape))
            self.register_buffer("text_prompts", torch.zeros(shape) if self.has_text_prompts else None)
        else:
            prototypes = torch.empty(len(self.layers), self.num_tokens, config.embed_dim)
            self.prototypes = nn.Parameter(prototypes.uniform_(-config.init_range, config.init_range))

    def forward(self, layer: int) -> tuple[torch.Tensor, Optional[torch.Tensor]]:
        """
        The prompts of one fusion layer. Everything that the hooks ask for goes through this method, because FSDP has
        the weights of this module in memory only during its forward.

        Args:
            layer: one of `layers`.

        Returns:
            The prompts (K, d) of the image and of the text; None for the text if the image does not see them.
        """
        index = self.layers.index(layer)
        if self.vision_inverse is None:
            text = self.text_prompts
            return self.vision_prompts[index].clone(), None if text is None else text[index].clone()
        own = self.prototypes[index]  # (K, D)
        return self.vision_inverse(index, own), None if self.text_inverse is None else self.text_inverse(index, own)
