"""Which items a few-shot experiment sees: the very draws of CoOp's published code."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence


MAX_VALIDATION_SHOTS = 4  # per class, as in CoOp


def sample_few_shot(
    train_labels: Sequence[int], val_labels: Sequence[int], shots: int, seed: int
) -> tuple[list[int], list[int]]:
    """
    Draw `shots` training items and min(`shots`, 4) validation items of each class, without replacement.

    Draws the items CoOp draws (arXiv 2109.01134, its published code): one random stream serves the training split
    first, then the validation split.

    Args:
        train_labels: the class of every item of the training split.
        val_labels: the class of every item of the validation split; may be empty.
        shots: items per class, at least 1; a class with fewer gives all it has.
        seed: another seed draws other items.

    Returns:
        Indices into `train_labels` and into `val_labels`, each class by class in the order in which classes first
        occur.

    Raises:
        ValueError: if `shots` is less than 1.
    """
    if shots < 1:
        raise ValueError(f"shots={shots} is too few; it must be at least 1.")
    stream = random.Random(seed)
    train = _draw(train_labels, shots, stream)
    return train, _draw(val_labels, min(shots, MAX_VALIDATION_SHOTS), stream)


def _draw(labels: Sequence[int], shots: int, stream: random.Random) -> list[int]:
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    # a class that has fewer than it should give does not advance the stream
    return [i for items in by_class.values() for i in (stream.sample(items, shots) if len(items) >= shots else items)]


def base_new_split(labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """
    The base and the new classes of the base-to-new protocol (CoCoOp, arXiv 2203.05557, section 4.1, by its published
    code).

    Args:
        labels: the class of every item, or every class once.

    Returns:
        The base classes, the first half (the larger, where the number is odd) of the sorted labels, and the new ones.
        A class's position in its list is its label within that subset.

    Raises:
        ValueError: if there are fewer than four classes, so that one half could not be told apart.
    """
    classes = sorted(set(labels))
    if len(classes) < 4:
        raise ValueError(f"Base and new classes take at least two each; there are {len(classes)} classes in all.")
    half = (len(classes) + 1) // 2
    return classes[:half], classes[half:]
