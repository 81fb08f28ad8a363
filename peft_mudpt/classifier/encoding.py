"""Encodes class texts to text features: many classes per row of the batch, in groups that bound the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Optional, Union

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig

from ..layer import MuDPTLayer, layer_of
from ..towers.base import CONDITION, part
from ..towers.registry import family_of
from ..towers.text import attention_bias
from .packing import OwnRows, PackedClasses, class_per_row, class_words, own_rows, pack_classes


# Bytes of activations that a training step may keep per group; beyond it, classes go into another group.
GROUP_BYTES = 2**30
# The same, if each image has texts of its own. It is less, because these activations grow with the batch, too.
GROUP_BYTES_PER_IMAGE = 2**28
# Implementations of attention that take a mask of four axes. The others (flash attention) get one class per row.
MASKED_ATTENTION = ("sdpa", "eager")


class LayoutKind(NamedTuple):
    """What a layout of classes is valid for."""

    num_tokens: int  # number of text prompt tokens in the input
    takes_masks: bool  # whether classes can share a row
    own_tokens: int = 0  # number of prompt tokens that each class has for itself from some layer on


def layout_kind(model: torch.nn.Module) -> LayoutKind:
    """The kind of layout that a model needs now; switching its adapters or its attention changes the kind."""
    layer = layer_of(model)
    own_tokens = layer.num_tokens("text") if layer is not None and layer.text_depends_on_class else 0
    return LayoutKind(num_input_prompts(model), takes_masks(model), own_tokens)


def lay_out_classes(
    model: torch.nn.Module,
    class_tokens: dict[str, torch.Tensor],
    class_batch_size: Optional[int] = None,
    owners: Sequence[str] = (),
    layout: Optional[LayoutKind] = None,
) -> list[PackedClasses]:
    """
    Arrange class texts as inputs of the text tower, in groups that are encoded one after another.

    Args:
        model: a CLIP, plain or with an adapter.
        class_tokens: what `tokenize_classes` returns: `input_ids` and `attention_mask` (C, L) of C texts, padded on
            the right. L may be any length if the tower is causal; otherwise it is the tower's number of positions.
        class_batch_size: classes per group; None for as many as keep about 1 GiB of activations in a training step.
        owners: what error messages call the owner of each text (see `texts.text_owners`). Empty: "class 0", ...
        layout: the kind of layout; None for the one that the model needs now.

    Returns:
        The groups, on the model's device.

    Raises:
        ValueError: if a text does not fit the tower, or the texts were not made by a CLIP tokenizer.
    """
    family = family_of(model)
    tower, kind = family.text_tower(model), family.text
    num_tokens, shares_rows, own_tokens = layout or layout_kind(model)
    table = kind.num_positions(tower)
    room = table - num_tokens
    if kind.is_causal:
        words = class_words(class_tokens, partial(kind.is_eos, tower))
        lengths = [len(text) for text in words]
    else:
        ids = class_tokens["input_ids"]  # (C, L)
        words = ids[:, :room].tolist()
        lengths = kind.text_lengths(ids).tolist()
    if max(lengths) > room:
        row = lengths.index(max(lengths))
        owner = owners[row] if owners else f"class {row}"
        raise ValueError(
            f"The text of {owner} has {max(lengths)} tokens, which with {num_tokens} prompt tokens is "
            f"more than the {table} positions of the text tower. Shorten it to {room} tokens, including those that "
            "the tokenizer adds (and one token of padding, if there is padding)."
        )
    if class_batch_size is None:
        class_batch_size = _classes_per_group(tower.config, words, kind.like(tower).dtype)
    elif not isinstance(class_batch_size, int) or class_batch_size < 1:
        raise ValueError(f"class_batch_size={class_batch_size} is not a number of classes; give at least 1, or None.")
    groups = [words[start : start + class_batch_size] for start in range(0, len(words), class_batch_size)]
    if shares_rows:
        packed = [pack_classes(group, num_tokens, max_length=table) for group in groups]
        if own_tokens:
            packed = [
                replace(rows, own=own_rows(group, rows, own_tokens, max_length=table))
                for group, rows in zip(groups, packed)
            ]
    elif kind.is_causal:
        packed = [class_per_row(group) for group in groups]
    else:
        packed = [PackedClasses(torch.tensor(group)) for group in groups]
    return [group.to(part(model, "device")) for group in packed]


def encode_layout(
    model: torch.nn.Module,
    groups: list[PackedClasses],
    lower: Optional[list[torch.Tensor]] = None,
    condition: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """
    Encode the groups from `lay_out_classes` to text features (C, D), not normalized.

    With gradients, only one group's activations are kept at a time, whatever the number of classes: the backward pass
    begins with the last group, and computes the activations of each other group a second time. `torch.func` cannot do
    so, and keeps all.

    Args:
        model: a CLIP, plain or with an adapter.
        groups: what `lay_out_classes` returned.
        lower: what `lower_states` returned; None begins with the embeddings.
        condition: if the text prompts depend on the class, the text features (C, D) of the classes in the frozen CLIP.
    """
    unknown = [None] * len(groups)
    conditions = unknown if condition is None else condition.split([group.num_classes for group in groups])
    inputs = zip(groups, unknown if lower is None else lower, conditions)
    return torch.cat(_in_turn([partial(_encode_group, model, *each) for each in inputs]))


def encode_per_image(
    model: torch.nn.Module,
    groups: list[PackedClasses],
    image_features: torch.Tensor,
    lower: Optional[list[torch.Tensor]] = None,
    class_batch_size: Optional[int] = None,
) -> torch.Tensor:
    """
    Encode the groups from `lay_out_classes` once per image, with an adapter whose text prompts depend on the image.

    Args:
        model: a CLIP with such an adapter.
        groups: C classes.
        image_features: the features (B, D) of B images.
        lower: what `lower_states` returned; None begins with the embeddings.
        class_batch_size: classes that are encoded at a time, counted once per image, but at least one group for one
            image; None for as many as keep about 256 MiB of activations in a training step.

    Returns:
        Text features (B, C, D), not normalized. With gradients, the memory is bounded as in `encode_layout`.
    """
    layer = layer_of(model)
    assert layer is not None, "only a MuDPT adapter makes text features depend on the image"
    condition = layer.image_condition(image_features)  # (B, D), once, because noise must be the same for all groups
    if torch.compiler.is_exporting():  # the number of images is left open
        parts: Sequence[torch.Tensor] = [condition]
    else:
        parts = condition.split(_images_per_group(model, groups, class_batch_size))
    unknown = [None] * len(groups)
    inputs = list(zip(groups, unknown if lower is None else lower))
    encoded = iter(_in_turn([partial(_encode_for_images, model, *each, part) for part in parts for each in inputs]))
    return torch.cat([torch.cat([next(encoded) for _ in groups], dim=1) for _ in parts])  # (B, C, D)


def _in_turn(encode: list[Callable[[], torch.Tensor]]) -> list[torch.Tensor]:
    """Call each function; with gradients, keep the activations of the last one only, and compute the others again."""
    if not (torch.is_grad_enabled() and (torch.compiler.is_compiling() or has_memory(torch.empty(0)))):
        return [each() for each in encode]
    *recomputed, last = encode
    return [*(checkpoint(each, use_reentrant=False) for each in recomputed), last()]


def lower_states(model: torch.nn.Module, groups: list[PackedClasses]) -> list[torch.Tensor]:
    """
    Encode the groups up to the first layer with text prompts, below which the states do not depend on the adapter.

    Args:
        model: a CLIP with an active adapter whose text prompts start above the input.
        groups: what `lay_out_classes` returned.

    Returns:
        For each group, the input (R, L, d) of the first layer with prompts, without a gradient.
    """
    layer = layer_of(model)
    assert layer is not None, "the caller asks for the start of its prompts"
    with torch.inference_mode(False), torch.no_grad():  # so that they can be used outside of it, too
        return [_states_at(model, layer, group, layer.start("text")) for group in groups]


def num_input_prompts(model: torch.nn.Module) -> int:
    """Number of prompt tokens that the active adapter inserts in the input of the text tower; 0 if none is active."""
    layer = layer_of(model)
    return 0 if layer is None or layer.start("text") else layer.num_tokens("text")


def takes_masks(model: torch.nn.Module) -> bool:
    """Whether classes can share a row: the text tower is causal, and its attention accepts a mask of four axes."""
    family = family_of(model)
    return family.text.is_causal and family.text_tower(model).config._attn_implementation in MASKED_ATTENTION


def has_memory(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds numbers. Fake tensors, and those that `torch.func` wraps, only stand for some."""
    if isinstance(tensor, FakeTensor):
        return False
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


def _encode_for_images(
    model: torch.nn.Module, group: PackedClasses, lower: Optional[torch.Tensor], condition: torch.Tensor
) -> torch.Tensor:
    """The features (B, C, D) of a group for B images with this condition (B, D)."""
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
    family = family_of(model)
    tower, kind = family.text_tower(model), family.text
    if group.own is not None:
        assert condition is not None, "classes with tokens of their own have it"
        pooled = _pooled_with_own_tokens(model, group, lower, condition)
    elif lower is None:
        mask, options = _mask_of(tower, group), {} if condition is None else {CONDITION: condition}
        output = tower(group.input_ids, attention_mask=mask, position_ids=group.position_ids, **options)
        states = output.last_hidden_state  # (R, L, d)
        pooled = kind.pooled(output) if group.eos is None else _at_eos(states, group)  # (C, d)
    else:
        states = _upper_states(model, lower, _mask_of(tower, group), condition)  # (R, L, d)
        pooled = kind.pooled_states(tower, states) if group.eos is None else _at_eos(states, group)  # (C, d)
    return kind.project(model, pooled)  # (C, D)


def _upper_states(
    model: torch.nn.Module, lower: torch.Tensor, mask: Optional[torch.Tensor], condition: Optional[torch.Tensor]
) -> torch.Tensor:
    """The last hidden states (R, L, d) of the text tower, from the input of the first layer with prompts."""
    family, layer = family_of(model), layer_of(model)
    assert layer is not None, "only an adapter has a first layer with prompts"
    tower, kind = family.text_tower(model), family.text(layer)
    layers = range(layer.start("text"), len(part(tower, f"{kind.encoder}.{kind.layers}")))
    hidden = kind.run_layers(tower, lower, mask, layers, condition)  # (R, L + n, d)
    before, after = kind.split(hidden, layer.num_tokens("text"))
    hidden = torch.cat([each for each in (before, after) if each is not None], dim=1)  # (R, L, d)
    return part(tower, kind.final_norm)(hidden)


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
    if lower is None:
        lower = part(tower, kind.embeddings)(input_ids=group.input_ids, position_ids=group.position_ids)
    return kind.run_layers(tower, lower, _mask_of(tower, group), range(start, index))


def _mask_of(tower: torch.nn.Module, group: Union[PackedClasses, OwnRows]) -> Optional[torch.Tensor]:
    # as a bias here too, because a CLIP without an adapter has no hook that makes one
    return None if group.attention_mask is None else attention_bias(tower, group.attention_mask)


def _at_eos(states: torch.Tensor, group: Union[PackedClasses, OwnRows]) -> torch.Tensor:
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
    hidden = text.run_layers(tower, hidden, _mask_of(tower, group.own), layers, prompted=False)
    return _at_eos(part(tower, text.final_norm)(hidden), group.own)  # (C, d)


def _classes_per_group(config: PretrainedConfig, words: list[list[int]], dtype: torch.dtype) -> int:
    tokens_per_class = sum(map(len, words)) / len(words)
    return max(1, int(GROUP_BYTES / (tokens_per_class * _bytes_per_token(config, dtype))))


def _images_per_group(model: torch.nn.Module, groups: list[PackedClasses], class_batch_size: Optional[int]) -> int:
    if len(groups) > 1:
        return 1
    if class_batch_size is not None:
        return max(1, class_batch_size // groups[0].num_classes)
    family = family_of(model)
    tower = family.text_tower(model)
    bytes_per_token = _bytes_per_token(tower.config, family.text.like(tower).dtype)
    return max(1, int(GROUP_BYTES_PER_IMAGE / (groups[0].input_ids.numel() * bytes_per_token)))


def _bytes_per_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    # What autograd keeps per token and layer if the weights are frozen: the input of both norms; query, key, value and
    # the output of attention; the hidden channels of the MLP before and after the activation.
    width = 6 * config.hidden_size + 2 * config.intermediate_size
    return config.num_hidden_layers * width * dtype.itemsize
