"""Says what a classifier thought of the pictures that it classified wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch

from ..classifier.answers import best_classes, probabilities_of


CLASSES_KEPT = 3  # the most probable classes of a picture; its true class is kept in any case


def mistakes_of(
    logits: torch.Tensor,
    labels: Sequence[int],
    names: Sequence[str],
    items: Sequence[str],
    temperature: Optional[float] = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """
    Collect the probabilities of the pictures that are classified wrongly.

    Args:
        logits: the logits (N, C) of N pictures.
        labels: positions of the classes of the pictures.
        names: names of the C classes, each another one.
        items: names of the pictures.
        temperature: the temperature of the probabilities; None: they are not calibrated.

    Returns:
        For each class that has such pictures, by item, the `CLASSES_KEPT` most probable classes and the true one with
        their probabilities in percent, the most probable first.
    """
    true = torch.tensor(labels)  # (N,)
    wrong = (logits.argmax(dim=-1) != true).nonzero().flatten()  # (M,)
    best = best_classes(logits[wrong], names, CLASSES_KEPT, temperature)
    of_true = probabilities_of(logits[wrong], temperature).gather(1, true[wrong, None]).flatten()  # (M,)
    mistakes: dict[str, dict[str, dict[str, float]]] = {}
    for i, ranked, probability in zip(wrong.tolist(), best, of_true.tolist()):
        name = names[labels[i]]
        thought = dict([*ranked, (name, probability)])  # the true class comes last, if it is not among the best
        percent = {class_name: round(100 * share, 2) for class_name, share in thought.items()}
        mistakes.setdefault(name, {})[items[i]] = percent
    return mistakes
