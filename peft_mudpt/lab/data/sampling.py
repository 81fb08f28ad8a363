"""Samples the pictures of a few-shot experiment exactly as CoOp's published code does."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Optional


MAX_VALIDATION_SHOTS = 4  # per class, as in CoOp


def sample_few_shot(
    train_labels: Sequence[int],
    val_labels: Sequence[int],
    shots: int,
    seed: int,
    val_shots: Optional[int] = None,
) -> tuple[list[int], list[int]]:
    """
    Draw `shots` training items and `val_shots` validation items of each class, without replacement.

    The draw equals that of CoOp's published code (arXiv 2109.01134): one stream of random numbers is used for the
    training split first, then for the validation split.

    Args:
        train_labels: label of every item of the training split.
        val_labels: label of every item of the validation split; may be empty.
        shots: items per class, at least 1. A class that has fewer gives all of them.
        seed: seed of the draw.
        val_shots: validation items per class; None: min(`shots`, 4), as in CoOp.

    Returns:
        Indices into `train_labels` and indices into `val_labels`. Both are grouped by class, in the order in which the
        classes first occur.

    Raises:
        ValueError: if `shots` is less than 1.
    """
    if shots < 1:
        raise ValueError(f"shots={shots} is too few; it must be at least 1.")
    stream = random.Random(seed)
    train = _draw(train_labels, shots, stream)
    return train, _draw(val_labels, val_shots or min(shots, MAX_VALIDATION_SHOTS), stream)


def _draw(labels: Sequence[int], shots: int, stream: random.Random) -> list[int]:
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    # as in CoOp, a class with fewer items than `shots` consumes no random numbers
    return [i for items in by_class.values() for i in (stream.sample(items, shots) if len(items) >= shots else items)]


def base_new_split(labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """
    Split the classes for the base-to-new protocol (CoCoOp, arXiv 2203.05557, section 4.1, as in its published code).

    Args:
        labels: label of every item, or every label once.

    Returns:
        The labels of the base classes and those of the new classes: the first and the second half of the sorted
        labels. If the number of classes is odd, there is one more base class. The position of a class in its list is
        its new label.

    Raises:
        ValueError: if there are fewer than four classes, because each half needs at least two.
    """
    classes = sorted(set(labels))
    if len(classes) < 4:
        raise ValueError(
            f"The base-to-new protocol needs at least two base and two new classes; the data set has {len(classes)} "
            "classes. Choose another protocol."
        )
    half = (len(classes) + 1) // 2
    return classes[:half], classes[half:]
