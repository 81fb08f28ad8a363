"""Encodes class texts, laid out in groups, to text features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Optional, Union

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint

from ..layer import MuDPTLayer, layer_of
from ..towers.base import CONDITION, part
from ..towers.registry import family_of
from ..towers.text import PromptedText, attention_bias
from .layout import conditions_per_group, groups_kept
from .packing import OwnRows, PackedClasses


def encode_layout(
    model: torch.nn.Module,
    groups: list[PackedClasses],
    lower: Optional[list[torch.Tensor]] = None,
    condition: Optional[torch.Tensor] = None,
    kept: int = 1,
) -> torch.Tensor:
    """
    Encode the groups from `layout.lay_out_classes` to text features (C, D), not normalized.

    With gradients, only the activations of the last groups are kept, whatever the number of classes: the backward pass
    begins with them, and then computes those of the other groups a second time, one group after another. `torch.func`
    cannot do so, and keeps all.

    Args:
        model: a CLIP, plain or with an adapter.
        groups: what `layout.lay_out_classes` returned.
        lower: what `lower_states` returned; None begins with the embeddings.
        condition: if the text prompts depend on the class, the text features (C, D) of the classes in the frozen CLIP.
        kept: number of groups whose activations are kept, at least 1 (see `layout.groups_kept`).
    """
    unknown = [None] * len(groups)
    conditions = unknown if condition is None else condition.split([group.num_classes for group in groups])
    inputs = zip(groups, unknown if lower is None else lower, conditions)
    return torch.cat(_in_turn([partial(_encode_group, model, *each) for each in inputs], kept))


def encode_per_condition(
    model: torch.nn.Module,
    groups: list[PackedClasses],
    conditions: torch.Tensor,
    lower: Optional[list[torch.Tensor]] = None,
    class_batch_size: Optional[int] = None,
) -> torch.Tensor:
    """
    Encode the groups from `layout.lay_out_classes` once per condition. The adapter's text prompts depend on the image,
    or on the domain.

    Args:
        model: a CLIP with such an adapter.
        groups: C classes.
        conditions: what `MuDPTLayer.image_condition` makes of B images (B, D), or the numbers (B,) of B domains.
        lower: what `lower_states` returned; None begins with the embeddings.
        class_batch_size: classes that are encoded at a time, counted once per condition, but at least one group for
            one condition; None for as many as keep about 256 MiB of activations in a training step.

    Returns:
        Text features (B, C, D), not normalized. With gradients, the memory is bounded as in `encode_layout`.
    """
    if torch.compiler.is_exporting():  # the number of images is left open
        parts: Sequence[torch.Tensor] = [conditions]
    else:
        parts = conditions.split(conditions_per_group(model, groups, class_batch_size))
    unknown = [None] * len(groups)
    inputs = list(zip(groups, unknown if lower is None else lower))
    calls = [partial(_encode_for_each, model, *each, part) for part in parts for each in inputs]
    encoded = iter(_in_turn(calls, groups_kept(model, class_batch_size)))
    return torch.cat([torch.cat([next(encoded) for _ in groups], dim=1) for _ in parts])  # (B, C, D)


def _in_turn(encode: Sequence[Callable[[], torch.Tensor]], kept: int) -> list[torch.Tensor]:
    """Call each function; with gradients, keep the activations of the last `kept`, and compute the others again."""
    if not (torch.is_grad_enabled() and (torch.compiler.is_compiling() or has_memory(torch.empty(0)))):
        return [each() for each in encode]
    recomputed, others = encode[:-kept], encode[-kept:]
    return [*(checkpoint(each, use_reentrant=False) for each in recomputed), *(each() for each in others)]


def lower_states(model: torch.nn.Module, groups: list[PackedClasses]) -> list[torch.Tensor]:
    """
    Encode the groups up to the first layer with text prompts, below which the states do not depend on the adapter.

    Args:
        model: a CLIP with an active adapter whose text prompts start above the input.
        groups: what `layout.lay_out_classes` returned.

    Returns:
        For each group, the input (R, L, d) of the first layer with prompts, without a gradient.
    """
    layer = layer_of(model)
    assert layer is not None, "the caller asks for the start of its prompts"
    with torch.inference_mode(False), torch.no_grad():  # so that they can be used outside of it, too
        return [_states_at(model, layer, group, layer.start("text")) for group in groups]


def has_memory(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds numbers. Fake tensors, and those that `torch.func` wraps, only stand for some."""
    if isinstance(tensor, FakeTensor):
        return False
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


def _encode_for_each(
    model: torch.nn.Module, group: PackedClasses, lower: Optional[torch.Tensor], condition: torch.Tensor
) -> torch.Tensor:
    """The features (B, C, D) of a group for each of B conditions, (B, D) or (B,)."""
    b, rows = condition.shape[0], group.input_ids.shape[0]
    lower = None if lower is None else lower.repeat(b, 1, 1)  # (R, L, d) -> (B * R, L, d)
    features = _encode_group(model, group.repeated(b), lower, condition.repeat_interleave(rows, dim=0))
    return features.unflatten(0, (b, -1))  # (B * C, D) -> (B, C, D)


def _encode_group(
    model: torch.nn.Module,
    group: PackedClasses,
    lower: Optional[torch.Tensor] = None,
    condition: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    family, layer = family_of(model), layer_of(model)
    tower, kind = family.text_tower(model), family.text
    if group.own is not None:
        assert condition is not None, "classes with tokens of their own have it"
        pooled = _pooled_with_own_tokens(model, group, lower, condition)
    elif layer is not None and group.shares_rows and (kind.can_be_shortened or lower is not None):
        pooled = _pooled_in_shared_rows(model, layer, group, lower, condition)
    elif lower is None:
        mask, options = _mask_of(tower, group), {} if condition is None else {CONDITION: condition}
        output = tower(group.input_ids, attention_mask=mask, position_ids=group.position_ids, **options)
        pooled = kind.pooled(output) if group.eos is None else _at_eos(output.last_hidden_state, group)  # (C, d)
    else:
        mask = _mask_of(tower, group)
        states = _upper_states(model, lower, mask, condition)  # (R, L, d)
        pooled = kind.pooled_states(tower, states, mask) if group.eos is None else _at_eos(states, group)  # (C, d)
    return kind.project(model, pooled)  # (C, D)


def _pooled_in_shared_rows(
    model: torch.nn.Module,
    layer: MuDPTLayer,
    group: PackedClasses,
    lower: Optional[torch.Tensor],
    condition: Optional[torch.Tensor],
) -> torch.Tensor:
    """
    The pooled output (C, d) of classes that share rows. Not the tower itself but its layers are called, so that the
    last one computes the tokens that are read and no others.
    """
    family = family_of(model)
    tower, kind = family.text_tower(model), family.text(layer)
    start = 0 if lower is None else layer.start("text")
    hidden = _embedded(tower, kind, group) if lower is None else lower
    layers = range(start, kind.shape(tower).num_layers)
    hidden = kind.run_layers(tower, hidden, _mask_of(tower, group), layers, condition, pooled=group.eos)  # (C, d)
    return kind.normed(tower, hidden)


def _embedded(tower: torch.nn.Module, kind: PromptedText, group: PackedClasses) -> torch.Tensor:
    """The input (R, L, d) of the encoder, with the prompts that enter there."""
    return part(tower, kind.embeddings)(input_ids=group.input_ids, position_ids=group.position_ids)


def _upper_states(
    model: torch.nn.Module, lower: torch.Tensor, mask: Optional[torch.Tensor], condition: Optional[torch.Tensor]
) -> torch.Tensor:
    """
    The last hidden states (R, L, d) of texts that stand alone in their rows, from the input of the first layer with
    prompts.
    """
    family, layer = family_of(model), layer_of(model)
    assert layer is not None, "only an adapter has a first layer with prompts"
    tower, kind = family.text_tower(model), family.text(layer)
    layers = range(layer.start("text"), kind.shape(tower).num_layers)
    hidden = kind.run_layers(tower, lower, mask, layers, condition)  # (R, L + n, d)
    before, after = kind.split(hidden, layer.num_tokens("text"))
    hidden = torch.cat([each for each in (before, after) if each is not None], dim=1)  # (R, L, d)
    return kind.normed(tower, hidden)


def _states_at(
    model: torch.nn.Module,
    layer: MuDPTLayer,
    group: PackedClasses,
    index: int,
    lower: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """
    The input (R, L, d) of the text tower's layer `index`, with the prompts that entered below it. `lower` is the input
    of the first layer with prompts; None begins with the embeddings.
    """
    family = family_of(model)
    tower, kind = family.text_tower(model), family.text(layer)
    start = 0 if lower is None else layer.start("text")
    hidden = _embedded(tower, kind, group) if lower is None else lower
    return kind.run_layers(tower, hidden, _mask_of(tower, group), range(start, index))


def _mask_of(tower: torch.nn.Module, group: Union[PackedClasses, OwnRows]) -> Optional[torch.Tensor]:
    mask = group.attention_mask
    # as a bias here too, because a CLIP without an adapter has no hook that makes one
    return mask if mask is None or mask.dim() == 2 else attention_bias(tower, mask)


def _at_eos(states: torch.Tensor, group: PackedClasses) -> torch.Tensor:
    return states.flatten(0, 1)[group.eos]  # (R, L, d) -> (C, d)


def _pooled_with_own_tokens(
    model: torch.nn.Module, group: PackedClasses, lower: Optional[torch.Tensor], condition: torch.Tensor
) -> torch.Tensor:
    """
    The pooled output (C, d) of classes whose own tokens replace the prompts before one layer. Below it, the classes
    share the prompts of their row, and from it on they stand in the rows `group.own`.
    """
    layer, family = layer_of(model), family_of(model)
    assert layer is not None and group.own is not None, "only an adapter makes tokens for classes"
    tower, text = family.text_tower(model), family.text(layer)
    index = layer.class_token_layer
    assert index is not None, "MuDPTConfig.resolve fills it in"
    tokens = layer.prompts("text", index, index + 1, condition)[index]  # (C, n, d)
    hidden = _states_at(model, layer, group, index, lower)  # (R, n + L, d)
    known = torch.cat([hidden.flatten(0, 1), tokens.flatten(0, 1).to(hidden)])  # (R * (n + L) + C * n, d)
    hidden = embedding(group.own.sources, known)  # (R', L', d)
    layers = range(index, text.shape(tower).num_layers)
    mask = _mask_of(tower, group.own)
    hidden = text.run_layers(tower, hidden, mask, layers, prompted=False, pooled=group.own.eos)  # (C, d)
    return text.normed(tower, hidden)
