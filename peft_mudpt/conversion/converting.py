"""Converts checkpoints of the published research code to this package's config and adapter weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

import torch

from ..config import MuDPTConfig
from .adapter import make_adapter
from .checkpoint import Checkpoint, read_checkpoint
from .format import Format
from .matching import Match, match
from .published import FORMATS, formats_of, known_methods


# The fields of `MuDPTConfig` that a user may know and that no checkpoint holds.
NOT_STORED = (
    "class_names",
    "class_template",
    "class_templates",
    "class_descriptions",
    "class_token_layer",
    "condition_template",
)


class Conversion(NamedTuple):
    """
    A converted checkpoint.

    Attributes:
        format: the format that it was stored in.
        config: the config of the adapter.
        weights: the weights of the adapter, as `peft.set_peft_model_state_dict` takes them.
        left_aside: the names of the tensors that are no part of the adapter.
    """

    format: Format
    config: MuDPTConfig
    weights: dict[str, torch.Tensor]
    left_aside: list[str]


def convert_checkpoint(
    state_dict: Mapping[str, Any], method: Optional[str] = None, **fields: Any
) -> tuple[MuDPTConfig, dict[str, torch.Tensor]]:
    """
    Convert the weights of a published implementation.

    CoOp can place the class name at the end, in the middle or at the front of its context. This package supports the
    end only. The caller must know that the checkpoint was trained that way, because the file does not say.

    Args:
        state_dict: the parameters under their published names, or what Dassl saves, a dict that holds them as
            `state_dict`. The embedded class names (`token_prefix`, `token_suffix`) and the weights of CLIP, which such
            files also hold, are skipped. The names may begin with `module.` (DataParallel), and those of a prompt
            learner that was saved alone may lack its name.
        method: name of the method in the published implementation: `coop`, `cocoop`, `tcp`, `vpt`, `ivlp` (`mpt` in
            MuDPT's code), `promptsrc`, `maple`, `mudpt` (preset `mudpt_linear`, because the released trainer is the
            linear form), `umudpt` or `uumudpt` (preset `mudpt`). None: the one whose parameters the checkpoint holds.
        fields: keyword arguments for the fields of [`MuDPTConfig`] that no checkpoint holds: `class_template` and the
            other notes on classes, and of TCP `condition_template` and `class_token_layer`.

    Returns:
        The config of the adapter, and the adapter's float32 weights, which `peft.set_peft_model_state_dict` loads:
        prompts (layers, n, width) of n tokens per tower, and the networks that fuse the prompts of both towers.

    Raises:
        ValueError: if the method is unknown, if parameters are missing or unknown, if their shapes contradict each
            other, or if the checkpoint fits several methods. The message lists each such parameter or method.

    Example (`examples/convert_checkpoint.py` also reads files that hold more than tensors):

        ```py
        >>> config, weights = convert_checkpoint(torch.load(file, weights_only=True)["state_dict"])
        >>> model = get_peft_model(clip, config)
        >>> set_peft_model_state_dict(model, weights)
        ```
    """
    found = convert(state_dict, method, fields)
    return found.config, found.weights


def convert(state_dict: Mapping[str, Any], method: Optional[str], fields: dict[str, Any]) -> Conversion:
    """
    Convert a checkpoint like `convert_checkpoint`, and also tell the format and what was left aside.

    Args:
        state_dict, method, fields: see `convert_checkpoint`.
    """
    formats = FORMATS if method is None else formats_of(method)
    if refused := sorted(fields.keys() - set(NOT_STORED)):
        raise ValueError(
            f"{', '.join(refused)} cannot be given: the checkpoint or its method decides. Only "
            f"{', '.join(NOT_STORED)} can."
        )
    checkpoint = read_checkpoint(state_dict)
    if method is None:
        formats = [each for each in formats if each.mark is None or checkpoint.has_mark(each.mark)]
    matches = [match(each, checkpoint.learned) for each in formats]
    conversions, errors = [], []
    for found in (each for each in matches if each.fits):
        try:
            conversions.append(Conversion(found.format, *make_adapter(found, fields), checkpoint.left_aside))
        except ValueError as error:
            errors.append(f"As method {found.format.methods[0]!r}: {error}")
    if len({frozenset(each.weights) for each in conversions}) > 1:
        names = ", ".join(each.format.methods[0] for each in conversions)
        raise ValueError(f"The checkpoint fits several methods: {names}. Give the method that it was trained with.")
    if conversions:
        return conversions[0]
    if errors:
        raise ValueError(" ".join(errors))
    raise ValueError(_why_unknown(checkpoint, matches) if method is None else _why_not(method, state_dict, matches))


def _why_unknown(checkpoint: Checkpoint, matches: list[Match]) -> str:
    """Why a checkpoint is of no known method."""
    if not checkpoint.learned:
        return (
            f"The checkpoint holds no learned prompts: all its tensors ({len(checkpoint.left_aside)}) are weights of "
            "CLIP or embedded class names. Give the file that the trainer saved after training."
        )
    closest = _closest(matches)
    return (
        f"The checkpoint is of no known method. The closest is {closest.format.methods[0]!r} "
        f"({closest.format.code}): {closest.faults()}. The known methods are {known_methods()}."
    )


def _why_not(method: str, state_dict: Mapping[str, Any], matches: list[Match]) -> str:
    """Why a checkpoint is not of this method, and of which it is."""
    try:
        advice = f"It fits method {convert(state_dict, None, {}).format.methods[0]!r}."
    except ValueError:
        advice = "Check the name of the method."
    return f"This is not a checkpoint of method {method!r}: {_closest(matches).faults()}. {advice}"


def _closest(matches: list[Match]) -> Match:
    return min(matches, key=lambda each: len(each.missing) + len(each.unknown))
