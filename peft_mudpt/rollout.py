"""Where the class token of a vision tower looks: attention rollout, with the share of the prompts apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch

from .layer import layer_of
from .towers.base import part
from .towers.registry import find_towers
from .towers.vision import PromptedVision


WEIGHTS_KNOWN = "eager"  # the implementation of attention that returns its weights


@dataclass(frozen=True)
class AttentionRollout:
    """
    What the class token of B images consists of, by attention rollout. For each image, all shares add up to 1.

    Args:
        patches: the shares (B, h, w) of the patches.
        class_token: the share (B,) of the class token that enters the first layer, which no picture changes.
        prompts: the shares (B, M) of the prompts that each of the M layers adds; 0 for a layer that adds none.
        registers: the share (B,) of registers; 0 if the tower has none.
    """

    patches: torch.Tensor
    class_token: torch.Tensor
    prompts: torch.Tensor
    registers: torch.Tensor


@torch.no_grad()
def attention_rollout(model: torch.nn.Module, pixel_values: torch.Tensor) -> AttentionRollout:
    """
    Compute where the class token of images looks (attention rollout, Abnar and Zuidema, arXiv 2005.00928, section 4).

    Attention of a layer is averaged over its heads, and the residual connection counts as much as attention: layer l
    mixes its tokens by R_l = (A_l + I) / 2. From the last layer down, row r of the class token becomes r R_l. Where
    layer l gets prompts of its own, they have replaced what lower layers made in their place, so that their columns of
    r R_l are the share of the prompts of layer l, and do not go on to lower layers. Prompts that a layer passes on go
    on as other tokens do.

    Rollout follows attention weights. It knows neither values nor MLPs, and shows what a class token is mixed from,
    not why a class was chosen.

    Args:
        model: a model with a supported vision tower, or the tower, plain or with adapters. The active adapter counts.
        pixel_values: images (B, 3, H, W), as the image processor makes them.

    Returns:
        The shares, in float32. Meanwhile, other threads can switch no MuDPT adapter; what they compute with the same
        tower may differ in the last digits, because the tower computes attention in another way.

    Raises:
        ValueError: if the model has no vision tower, or one without a class token.
    """
    tower = find_towers(model).get("vision")
    if tower is None:
        raise ValueError(f"{type(model).__name__} has no vision tower. Give a model with one.")
    kind = cast(type[PromptedVision], tower.kind)
    if not kind.tokens_before_patches:
        raise ValueError(
            f"{type(tower.module).__name__} has no class token: it pools its patches by a head, through which "
            "attention rollout does not lead. Give a model that pools a class token, such as a CLIPModel."
        )
    layer = layer_of(model)
    with nullcontext() if layer is None else layer.switch_lock, _weights_known(tower.module):
        added = set() if layer is None else set(layer.prompts("vision", 0))
        n = 0 if layer is None else layer.num_tokens("vision")
        like = kind.like(tower.module)
        output = tower.module(pixel_values.to(like.device, like.dtype), output_attentions=True)
        weights = [weights.float().mean(dim=1) for weights in output.attentions]  # M x (B, L or L + n, L or L + n)
    base, of_prompts = _rolled_out(weights, added, n)
    first = kind.first_patch(tower.module)
    strides = part(tower.module, f"{kind.embeddings}.{kind.patch_embedding}").stride
    height, width = (size // stride for size, stride in zip(pixel_values.shape[-2:], strides))
    patches = base[:, first:].unflatten(1, (height, width))
    return AttentionRollout(patches, base[:, 0], of_prompts, base[:, 1:first].sum(dim=1))


def _rolled_out(weights: Sequence[torch.Tensor], added: set[int], n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Roll out the row of the class token.

    Args:
        weights: the attention of each layer, averaged over heads. Prompts stand behind the other tokens.
        added: the layers that get prompts of their own.
        n: number of prompts.

    Returns:
        The shares (B, L) of the tokens that enter the first layer, and those (B, M) of the prompts of each layer.
    """
    row = torch.zeros_like(weights[-1][:, 0])
    row[:, 0] = 1  # (B, L + n)
    of_prompts = row.new_zeros(len(row), len(weights))
    for index in reversed(range(len(weights))):
        row = (torch.bmm(row[:, None], weights[index])[:, 0] + row) / 2
        if index in added:
            of_prompts[:, index] = row[:, -n:].sum(dim=1)
            below = weights[index - 1].shape[1] if index else row.shape[1] - n
            row = torch.nn.functional.pad(row[:, :-n], (0, below - (row.shape[1] - n)))
    return row, of_prompts


@contextmanager
def _weights_known(tower: Any) -> Iterator[None]:
    """Inside of this block, the tower computes attention so that its weights are known."""
    before = tower.config._attn_implementation
    tower.set_attn_implementation(WEIGHTS_KNOWN)
    try:
        yield
    finally:
        tower.set_attn_implementation(before)
