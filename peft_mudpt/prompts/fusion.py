"""The injection model (MuDPT, arXiv 2306.11400): computes from one tower's prompts a shift of the other tower's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import QuickGELUActivation


HEAD_DIM = 64  # CLIP's own


class SelfAttention(nn.Module):
    """
    Multi-head self-attention over the n prompt tokens of each layer, without a mask.

    `nn.MultiheadAttention` computes the same, but switches to another code path when gradients are off, so the outputs
    of a trained adapter and of its reloaded copy would differ in the last bits.
    """

    def __init__(self, width: int):
        super().__init__()
        # width / 64 heads, at least 1; a width that is no multiple of 64 gets the next lower number that divides it
        self.num_heads = next(h for h in range(max(1, width // HEAD_DIM), 0, -1) if width % h == 0)
        self.qkv = nn.Linear(width, 3 * width)  # rows: query, key, value
        self.output = nn.Linear(width, width)
        # initialized as nn.MultiheadAttention is, which the published implementations use
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        layers, n, width = hidden.shape
        heads = self.qkv(hidden).view(layers, n, 3, self.num_heads, width // self.num_heads)  # (J, n, 3, h, w/h)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # 3 x (J, h, n, w/h)
        attended = F.scaled_dot_product_attention(query, key, value)  # (J, h, n, w/h)
        return self.output(attended.transpose(1, 2).reshape(layers, n, width))


class LightTransformer(nn.Module):
    """
    The paper's injection model for one direction: LayerNorm, one pre-norm transformer block, LayerNorm, Linear to the
    other tower's width.

    Args:
        source_width: width of the tower whose prompts are read.
        target_width: width of the tower whose prompts are shifted.

    `forward` maps (layers, n, source_width) to (layers, n, target_width). The submodules have other names than CLIP's,
    because PEFT matches `modules_to_save` and the target modules of other adapters by the end of a module's name.
    """

    def __init__(self, source_width: int, target_width: int):
        super().__init__()
        self.input_norm = nn.LayerNorm(source_width)
        self.attention_norm = nn.LayerNorm(source_width)
        self.attention = SelfAttention(source_width)
        self.feed_forward_norm = nn.LayerNorm(source_width)
        self.feed_forward_in = nn.Linear(source_width, 4 * source_width)
        self.activation = QuickGELUActivation()
        self.feed_forward_out = nn.Linear(4 * source_width, source_width)
        self.output_norm = nn.LayerNorm(source_width)
        self.output = nn.Linear(source_width, target_width)

    def forward(self, prompts: torch.Tensor) -> torch.Tensor:
        hidden = self.input_norm(prompts)
        hidden = hidden + self.attention(self.attention_norm(hidden))
        hidden = hidden + self.feed_forward_out(self.activation(self.feed_forward_in(self.feed_forward_norm(hidden))))
        return self.output(self.output_norm(hidden))


class InjectionModel(nn.Module):
    """
    Maps the raw prompts of one tower to a shift of the other tower's prompts, for all layers. In the paper, F maps
    text to vision, and H maps vision to text.

    Args:
        source_width: width of the tower whose prompts are read.
        target_width: width of the tower whose prompts are shifted.
        layers: the indices of the layers whose prompts are shifted; layer 0 is the input.
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

    def forward(self, layers: range, prompts: torch.Tensor) -> torch.Tensor:
        """
        Map the raw prompts (len(layers), n, source_width) of one tower to the shift (len(layers), n, target_width) of
        the other tower's prompts. Each network runs once, over all the layers that share it.
        """
        counts: dict[str, int] = {}  # layers that share a network follow one another
        for name in map(self._network_name, layers):
            counts[name] = counts.get(name, 0) + 1
        parts = prompts.split(list(counts.values()))
        shifts = [self.networks[name](part) for name, part in zip(counts, parts)]
        return torch.cat(shifts) if len(shifts) > 1 else shifts[0]
