"""Turns logits into what a classifier answers: probabilities, the most probable classes, and sets of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch

from ..calibration.conformal import ConformalSets
from ..calibration.temperature import softmax


def probabilities_of(logits: torch.Tensor, temperature: Optional[float] = None) -> torch.Tensor:
    """
    The class probabilities of images.

    Args:
        logits: logits (N, C) in float32; NaN for an image that has no answer.
        temperature: what the logits are divided by; None: nothing.

    Returns:
        Probabilities (N, C) in float32; NaN for an image that has no answer.
    """
    if temperature is None:
        return logits.softmax(dim=-1)
    return softmax(logits.cpu(), temperature).float().to(logits.device)  # not each device has float64


def best_classes(
    logits: torch.Tensor, class_names: Sequence[str], k: int, temperature: Optional[float] = None
) -> list[list[tuple[str, float]]]:
    """
    The most probable classes of images.

    Args:
        logits: logits (N, C) in float32; NaN for an image that has no answer.
        class_names: names of the C classes.
        k: number of classes per image.
        temperature: what the logits are divided by; None: nothing.

    Returns:
        For each image, k classes with their probabilities, the most probable first; fewer if there are fewer classes,
        none if the image has no answer.
    """
    ranked = logits.sort(dim=-1, descending=True, stable=True).indices[:, :k]  # (N, k)
    found = probabilities_of(logits, temperature).gather(-1, ranked)
    return [
        [] if none else [(class_names[label], probability) for label, probability in zip(*row)]
        for none, *row in zip(_unanswered(logits), ranked.tolist(), found.tolist())
    ]


def classes_in_sets(
    logits: torch.Tensor, class_names: Sequence[str], sets: ConformalSets
) -> list[Optional[list[str]]]:
    """
    The classes in the set of each image.

    Args:
        logits: logits (N, C) in float32; NaN for an image that has no answer.
        class_names: names of the C classes.
        sets: finds the sets.

    Returns:
        For each image the names, the most probable first; None if the image has no answer.
    """
    logits = logits.cpu()  # not each device has float64
    ranked = logits.sort(dim=-1, descending=True, stable=True).indices  # (N, C)
    inside = sets(logits).gather(-1, ranked)
    return [
        None if none else [class_names[label] for label, is_in in zip(*row) if is_in]
        for none, *row in zip(_unanswered(logits), ranked.tolist(), inside.tolist())
    ]


def _unanswered(logits: torch.Tensor) -> list[bool]:
    return logits.isnan().any(dim=-1).tolist()
