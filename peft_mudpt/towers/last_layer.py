"""Hooks that shorten the last layer of a tower: after its attention, it computes the pooled tokens alone.

A tower that pools one token of each text or image reads no other token of its last layer, whose MLP is two thirds of
its arithmetic. If the caller asks for the pooled output only, the layer gets the pooled tokens alone, and its
attention reads all tokens. The results differ by rounding errors at most.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


SHORTENED = "mudpt_shortened"  # argument from the encoder to its layers: a `Shortened`
ALL_TOKENS = "mudpt_all_tokens"  # argument from the last layer to its attention: an `AllTokens`

PooledTokens = Callable[[torch.Tensor, Any], torch.Tensor]  # see `PromptedTower.pooled_tokens`


class Shortened(NamedTuple):
    """
    The layer that is shortened.

    Attributes:
        layer: its index.
        pooled: which tokens are pooled, as `PromptedTower.pooled_tokens` takes it.
    """

    layer: int
    pooled: Any


class AllTokens(NamedTuple):
    """
    What the attention of a shortened layer needs.

    Attributes:
        hidden: all tokens (B, L, d), normalized.
        pooled: see `Shortened`.
    """

    hidden: torch.Tensor
    pooled: Any


def attach(
    layer: nn.Module, attention_norm: str, attention: str, pooled_tokens: PooledTokens
) -> list[RemovableHandle]:
    """
    Register the hooks on the last layer, after those that put prompts into it.

    Args:
        layer: the layer.
        attention_norm, attention: where it keeps the LayerNorm before its attention, and its attention.
        pooled_tokens: see `PromptedTower.pooled_tokens`.

    Returns:
        The handles of the hooks.
    """
    module = layer.get_submodule(attention)
    return [
        layer.register_forward_pre_hook(partial(_shorten, attention_norm, pooled_tokens), with_kwargs=True),
        module.register_forward_pre_hook(_attend_to_all, with_kwargs=True),
        module.register_forward_hook(partial(_keep_pooled, pooled_tokens), with_kwargs=True),
    ]


def _shorten(
    attention_norm: str, pooled_tokens: PooledTokens, layer: nn.Module, args: tuple, kwargs: dict
) -> tuple[tuple, dict]:
    shortened = kwargs.pop(SHORTENED, None)
    if shortened is None:
        return args, kwargs
    hidden, *rest = args  # (B, L, d)
    normalized = layer.get_submodule(attention_norm)(hidden)
    args = pooled_tokens(hidden, shortened.pooled), *rest
    return args, {**kwargs, ALL_TOKENS: AllTokens(normalized, shortened.pooled)}


def _attend_to_all(attention: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    tokens = kwargs.get(ALL_TOKENS)
    return args, kwargs if tokens is None else {**kwargs, "hidden_states": tokens.hidden}


def _keep_pooled(pooled_tokens: PooledTokens, attention: nn.Module, args: tuple, kwargs: dict, output: tuple) -> tuple:
    tokens = kwargs.get(ALL_TOKENS)
    return output if tokens is None else (pooled_tokens(output[0], tokens.pooled), *output[1:])
