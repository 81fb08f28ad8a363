"""Few-shot sampling."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence


def sample_few_shot(labels: Sequence[int], shots: int, seed: int) -> list[int]:
    """
    Draw `shots` items of each class without replacement.

    Args:
        labels: the class of every item.
        shots: items per class, at least 1; a class with fewer gives all it has.
        seed: another seed draws other items.

    Returns:
        Indices into `labels`, class by class in the order in which the classes first occur.

    Raises:
        ValueError: if `shots` is less than 1.
    """
    if shots < 1:
        raise ValueError(f"shots={shots} is too few; it must be at least 1.")
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    rng = random.Random(seed)
    return [i for items in by_class.values() for i in (rng.sample(items, shots) if len(items) >= shots else items)]
