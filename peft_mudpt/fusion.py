"""The injection model (MuDPT, arXiv 2306.11400): raw prompts of one tower -> shift of the other tower's prompts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import QuickGELUActivation


HEAD_DIM = 64  # CLIP's own


class SelfAttention(nn.Module):
    """
    Multi-head self-attention over the n prompt tokens of one layer, without a mask.

    `nn.MultiheadAttention` computes the same, but takes another code path without gradients: a trained adapter and its
    reloaded copy would differ in the last bits.
    """

    def __init__(self, width: int):
        super().__init__()
        # width / 64 heads, at least 1; a width that is no multiple of 64 gets the next number that divides it
        self.num_heads = next(h for h in range(max(1, width // HEAD_DIM), 0, -1) if width % h == 0)
        self.in_proj = nn.Linear(width, 3 * width)  # rows: query, key, value
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        n, width = hidden.shape
        heads = self.in_proj(hidden).view(n, 3, self.num_heads, width // self.num_heads)  # (n, 3, h, w/h)
        query, key, value = heads.permute(1, 2, 0, 3).unsqueeze(1)  # 3 x (1, h, n, w/h)
        attended = F.scaled_dot_product_attention(query, key, value)  # (1, h, n, w/h)
        return self.out_proj(attended[0].transpose(0, 1).reshape(n, width))


class LightTransformer(nn.Module):
    """
    The paper's injection model for one direction: LayerNorm, one pre-norm transformer block, LayerNorm, Linear to the
    other tower's width.

    Args:
        source_width: width of the tower whose prompts are read.
        target_width: width of the tower whose prompts are shifted.

    `forward` maps (n, source_width) to (n, target_width).
    """

    def __init__(self, source_width: int, target_width: int):
        super().__init__()
        self.pre_layer_norm = nn.LayerNorm(source_width)
        self.layer_norm1 = nn.LayerNorm(source_width)
        self.self_attn = SelfAttention(source_width)
        self.layer_norm2 = nn.LayerNorm(source_width)
        self.fc1 = nn.Linear(source_width, 4 * source_width)
        self.activation = QuickGELUActivation()
        self.fc2 = nn.Linear(4 * source_width, source_width)
        self.post_layer_norm = nn.LayerNorm(source_width)
        self.projection = nn.Linear(source_width, target_width)

    def forward(self, prompts: torch.Tensor) -> torch.Tensor:
        hidden = self.pre_layer_norm(prompts)
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        hidden = hidden + self.fc2(self.activation(self.fc1(self.layer_norm2(hidden))))
        return self.projection(self.post_layer_norm(hidden))


class InjectionModel(nn.Module):
    """
    One direction of the fusion over all its layers.

    Args:
        source_width, target_width: widths of the tower that is read and of the tower that is informed.
        layers: the layers at which this direction acts.
        network: `linear` (the released trainer's) or `transformer` (the paper's).
        sharing: `all` (one network), `input_and_deep` (one for layer 0, one for the others) or `per_layer`.
    """

    def __init__(self, source_width: int, target_width: int, layers: Iterable[int], network: str, sharing: str):
        super().__init__()
        self.sharing = sharing
        build = {"linear": nn.Linear, "transformer": LightTransformer}[network]
        names = dict.fromkeys(map(self._network_name, layers))  # in order, each once
        self.networks = nn.ModuleDict({name: build(source_width, target_width) for name in names})

    def _network_name(self, layer: int) -> str:
        if self.sharing == "all":
            return "all_layers"
        if self.sharing == "input_and_deep":
            return "deep_layers" if layer else "input_layer"
        return f"layer_{layer}"

    def forward(self, layer: int, prompts: torch.Tensor) -> torch.Tensor:
        """Raw prompts (n, source_width) of `layer` -> the shift of the other tower's (n, target_width)."""
        return self.networks[self._network_name(layer)](prompts)
