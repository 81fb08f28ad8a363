"""The formulas of Fed-DPT (arXiv 2310.03103): each image weighs the domains, and their text features are mixed."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize


def domain_weights(query: torch.Tensor, keys: torch.Tensor, num_heads: int, temperature: float) -> torch.Tensor:
    """
    The weights of K domains for each of B images: a softmax over the scores, divided by the temperature. A score is
    the mean over the heads of the scaled dot products of attention.

    Args:
        query: the query (B, d) of the class token.
        keys: the keys (B, K, d) of the visual prompts of the domains.
        num_heads: number of attention heads, which share the d channels.
        temperature: see `MuDPTConfig.domain_temperature`.

    Returns:
        The weights (B, K) in float32, which add up to 1 for each image.
    """
    d_head = query.shape[-1] // num_heads
    # the sum over heads is that over d; half precision would round it, and fp16 may overflow
    scores = torch.einsum("bd,bkd->bk", query.float(), keys.float()) / (num_heads * d_head**0.5)
    return (scores / temperature).softmax(dim=-1)


def mixed_features(weights: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """
    Mix the text features of classes over the domains.

    Args:
        weights: weights (B, K) of K domains for B images.
        features: text features (K, C, D) of C classes in each domain, each with L2 norm 1.

    Returns:
        The features (B, C, D) of the classes for each image, each with L2 norm 1.
    """
    return normalize(torch.einsum("bk,kcd->bcd", weights.to(features), features), dim=-1)
