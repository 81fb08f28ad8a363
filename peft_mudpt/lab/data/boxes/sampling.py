"""Samples the pictures of a few-shot experiment in detection exactly as the published code of GLIP does."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from ....rules import AT_LEAST_ONE, SEED


def sample_few_shot_boxes(labels: Sequence[Sequence[int]], shots: int, seed: int) -> list[int]:
    """
    Draw pictures until each class has `shots` of them, or all that show it.

    The draw equals that of the published code of GLIP (arXiv 2112.03857), which SDPT (arXiv 2407.11414) uses, for
    pictures in the order of their ids: those with boxes are shuffled, unless the seed is 0, and one is taken if any of
    its classes still needs a picture. A picture counts once for each of its classes, so that shots are pictures, not
    boxes, and a frequent class may get more. Pictures without boxes are never drawn.

    Args:
        labels: the labels of the boxes of each picture.
        shots: pictures per class, at least 1.
        seed: seed of the draw. 0 takes the pictures in their order.

    Returns:
        Positions of the pictures, in the order in which they were drawn.

    Raises:
        ValueError: if `shots` or `seed` is no such number.
    """
    AT_LEAST_ONE.check(shots, "shots")
    SEED.check(seed, "seed")
    order = [position for position, own in enumerate(labels) if len(own)]
    if seed:
        random.Random(seed).shuffle(order)
    taken: Counter[int] = Counter()
    drawn = []
    for position in order:
        classes = set(labels[position])
        if any(taken[label] < shots for label in classes):
            drawn.append(position)
            taken.update(classes)
    return drawn
