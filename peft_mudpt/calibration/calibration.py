"""What held-out pictures tell about the probabilities of a classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch

from .conformal import ConformalSets, class_scores
from .labels import Labels, checked
from .temperature import NoTemperature, fit_temperature


@dataclass(frozen=True)
class Calibration:
    """
    What pictures that were held out from training tell about the probabilities of a classifier. It belongs to the
    weights, the classes and the texts with which it was measured.

    Args:
        temperature: what the logits are divided by, so that the softmax is as certain as the classifier is right (see
            `fit_temperature`); None: the pictures determine none.
        scores: for each class, in the order of the labels, its scores for its held-out pictures (see `class_scores`).
    """

    temperature: Optional[float]
    scores: Sequence[Sequence[float]]

    @classmethod
    def fit(cls, logits: torch.Tensor, labels: Labels) -> Calibration:
        """
        Measure.

        Args:
            logits: the logits (N, C) of N pictures that were used neither for training nor for choosing its options.
            labels: their class indices (N,).

        Returns:
            The calibration. The scores do not depend on the temperature, so that the same pictures serve both. They
            are rounded down, which makes sets at most larger.

        Raises:
            ValueError: if the logits or the labels have another shape, or hold other values (see `labels.checked`).
        """
        try:
            temperature: Optional[float] = fit_temperature(logits, labels)
        except NoTemperature:
            temperature = None
        logits, labels = checked(logits, labels, "logits")
        found = class_scores(logits).gather(1, labels[:, None])[:, 0]  # (N,)
        scores: list[list[float]] = [[] for _ in range(logits.shape[1])]
        for label, score in zip(labels.tolist(), found.tolist()):
            scores[label].append(math.floor(score * 1000) / 1000)
        return cls(temperature, [sorted(of_class) for of_class in scores])

    @property
    def pictures(self) -> int:
        """The number of held-out pictures."""
        return sum(map(len, self.scores))

    def sets(self, coverage: float = 0.9, per_class: bool = False) -> ConformalSets:
        """
        The sets of classes that hold the label of a picture with a stated probability (see `ConformalSets.fit`).

        Args:
            coverage: the stated coverage, between 0 and 1.
            per_class: whether it is to hold for each class that has enough held-out pictures.

        Raises:
            ValueError: if the coverage is out of range, or needs more pictures than there are.
        """
        return ConformalSets.fit(self.scores, coverage, per_class)

    def as_dict(self) -> dict[str, Any]:
        """The arguments that make this calibration again, fit for JSON."""
        return {"temperature": self.temperature, "scores": [list(of_class) for of_class in self.scores]}
