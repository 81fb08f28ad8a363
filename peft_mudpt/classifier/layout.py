"""Lays out class texts as inputs of the text tower: many per row of the batch, in groups that bound the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Optional

import torch
from transformers import PretrainedConfig

from ..layer import layer_of
from ..towers.base import part
from ..towers.registry import family_of
from .memory import bytes_for_texts
from .packing import PackedClasses, class_per_row, class_words, masked_rows, own_rows, pack_classes, unmasked_words


# Bytes of activations that a training step may keep per group; beyond it, classes go into another group.
GROUP_BYTES = 2**30
# The same, if each image has texts of its own. It is less, because these activations grow with the batch, too.
GROUP_BYTES_PER_IMAGE = 2**28
# Implementations of attention that take a mask of four axes. The others (flash attention) get one class per row.
MASKED_ATTENTION = ("sdpa", "eager")


class LayoutKind(NamedTuple):
    """What a layout of classes is valid for."""

    num_tokens: int  # number of text prompt tokens in the input
    shares_rows: bool  # whether several classes stand in one row
    own_tokens: int = 0  # number of prompt tokens that each class has for itself from some layer on


def layout_kind(model: torch.nn.Module) -> LayoutKind:
    """The kind of layout that a model needs now; switching its adapters or its attention changes the kind."""
    layer = layer_of(model)
    own_tokens = layer.num_tokens("text") if layer is not None and layer.text_depends_on_class else 0
    shares_rows = _takes_masks(model) and (layer is None or not layer.num_class_contexts)
    return LayoutKind(_num_input_prompts(model), shares_rows, own_tokens)


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
            the right. L is a multiple of the tower's `pad_multiple`.
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
    elif kind.hides_padding:
        words = unmasked_words(class_tokens)
    else:
        words = class_tokens["input_ids"][:, :room].tolist()  # of (C, L)
    fixed = not (kind.is_causal or kind.hides_padding)
    lengths = kind.text_lengths(class_tokens["input_ids"]).tolist() if fixed else list(map(len, words))
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
    elif kind.hides_padding:
        packed = [masked_rows(group) for group in groups]
    else:
        packed = [PackedClasses(torch.tensor(group)) for group in groups]
    return [group.to(part(model, "device")) for group in packed]


def groups_kept(model: torch.nn.Module, class_batch_size: Optional[int]) -> int:
    """
    How many groups may keep their activations for the backward pass, which computes those of the others again. Both
    give the same numbers.

    Args:
        model: a CLIP, plain or with an adapter.
        class_batch_size: as in `lay_out_classes`. If it is given, it bounds the memory, and one group is kept.

    Returns:
        A number of groups, at least 1.
    """
    return 1 if class_batch_size is not None else max(1, bytes_for_texts(part(model, "device")) // GROUP_BYTES)


def conditions_per_group(model: torch.nn.Module, groups: list[PackedClasses], class_batch_size: Optional[int]) -> int:
    """
    Choose for how many conditions classes are encoded at a time, if each image or domain has texts of its own.

    Args:
        model: a CLIP with such an adapter.
        groups: what `lay_out_classes` returned.
        class_batch_size: as in `encoding.encode_per_condition`.

    Returns:
        A number of conditions, at least 1.
    """
    if len(groups) > 1:
        return 1
    if class_batch_size is not None:
        return max(1, class_batch_size // groups[0].num_classes)
    family = family_of(model)
    tower = family.text_tower(model)
    bytes_per_token = _bytes_per_token(tower.config, family.text.like(tower).dtype)
    return max(1, int(GROUP_BYTES_PER_IMAGE / (groups[0].input_ids.numel() * bytes_per_token)))


def _num_input_prompts(model: torch.nn.Module) -> int:
    """Number of prompt tokens that the active adapter inserts in the input of the text tower; 0 if none is active."""
    layer = layer_of(model)
    return 0 if layer is None or layer.start("text") else layer.num_tokens("text")


def _takes_masks(model: torch.nn.Module) -> bool:
    """Whether classes can share a row: the text tower is causal, and its attention accepts a mask of four axes."""
    family = family_of(model)
    return family.text.is_causal and family.text_tower(model).config._attn_implementation in MASKED_ATTENTION


def _classes_per_group(config: PretrainedConfig, words: list[list[int]], dtype: torch.dtype) -> int:
    tokens_per_class = sum(map(len, words)) / len(words)
    return max(1, int(GROUP_BYTES / (tokens_per_class * _bytes_per_token(config, dtype))))


def _bytes_per_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    # What autograd keeps per token and layer if the weights are frozen: the input of both norms; query, key, value and
    # the output of attention; the hidden channels of the MLP before and after the activation.
    width = 6 * config.hidden_size + 2 * config.intermediate_size
    return config.num_hidden_layers * width * dtype.itemsize
