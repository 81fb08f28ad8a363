"""What is asked about each picture, and what a classifier answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Optional

import torch

from ..calibration.conformal import COVERAGE, ConformalSets
from ..classifier.answers import best_classes, classes_in_sets
from ..classifier.prediction import PictureClassifier
from ..rules import PROBABILITY


@dataclass(frozen=True)
class Question:
    """
    What is asked about each picture.

    Args:
        k: number of classes.
        calibrated: whether probabilities are calibrated; None: if the classifier is. `min_confidence` implies it.
        min_confidence: the calibrated probability from which a prediction is confident; None: not asked.
        coverage: how often the set of classes is to hold the right one, from 0 to 1; None: no set is asked for.
        per_class: whether the coverage is to hold for each class that has enough held-out pictures.

    Raises:
        ValueError: if a value is out of range, if `per_class` is asked for without `coverage`, or `min_confidence`
            without calibrated probabilities.
    """

    k: int = 5
    calibrated: Optional[bool] = None
    min_confidence: Optional[float] = None
    coverage: Optional[float] = None
    per_class: bool = False

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"--top {self.k} must be at least 1.")
        if self.min_confidence is not None:
            PROBABILITY.check(self.min_confidence, "--min_confidence")
            if self.calibrated is False:
                raise ValueError("--min_confidence is for calibrated probabilities. Leave out --no_calibrated.")
        if self.coverage is not None:
            COVERAGE.check(self.coverage, "--coverage")
        if self.per_class and self.coverage is None:
            raise ValueError("--per_class needs --coverage; give both.")

    @property
    def flags_of_calibration(self) -> list[str]:
        """The flags of what is asked that only a calibrated classifier can answer."""
        asked = {
            "--calibrated": self.calibrated is True,
            "--min_confidence": self.min_confidence is not None,
            "--coverage": self.coverage is not None,
        }
        return [flag for flag, is_asked in asked.items() if is_asked]

    def check(self, classifier: PictureClassifier) -> None:
        """Raise a ValueError if a classifier cannot answer, because it was not calibrated or on too few pictures."""
        self.temperature(classifier)
        self._sets(classifier)

    def answers(self, classifier: PictureClassifier) -> Callable[[torch.Tensor], Iterator[Answer]]:
        """
        Make a function that answers for the pictures of a batch.

        Args:
            classifier: the classifier. Its sets are fitted once for all batches.

        Returns:
            A function of the logits (B, C) in float32, which yields the answer for each picture.
        """
        names, least = classifier.class_names, self.min_confidence
        sets, temperature = self._sets(classifier), self.temperature(classifier)

        def of_batch(logits: torch.Tensor) -> Iterator[Answer]:
            best = best_classes(logits, names, self.k, temperature)
            of_sets = [None] * len(best) if sets is None else classes_in_sets(logits, names, sets)
            for ranked, classes in zip(best, of_sets):
                yield Answer(ranked, None if least is None else ranked[0][1] >= least, classes)

        return of_batch

    def temperature(self, classifier: PictureClassifier) -> Optional[float]:
        """
        The temperature at which a classifier answers; None if its probabilities are not calibrated.

        Raises:
            ValueError: if calibrated probabilities are asked for, and there is no temperature.
        """
        return classifier.temperature_for(self.calibrated if self.min_confidence is None else True)

    def _sets(self, classifier: PictureClassifier) -> Optional[ConformalSets]:
        return None if self.coverage is None else classifier.sets(self.coverage, self.per_class)


class Answer(NamedTuple):
    """
    What is answered for a picture that was read.

    Attributes:
        best: the most probable classes with their probabilities (see `PictureClassifier.top_k`).
        is_confident: whether the first of them is probable enough; None if that was not asked.
        classes: the classes in the set, the most probable first; None if no set was asked for.
    """

    best: list[tuple[str, float]]
    is_confident: Optional[bool] = None
    classes: Optional[list[str]] = None
