"""How far the probabilities of a classifier are from its accuracy: reliability diagram and calibration error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import torch

from .labels import Labels, checked


BINS = 20


@dataclass(frozen=True)
class Reliability:
    """
    Pictures in bins of equal width by their confidence, the probability of the predicted class. Bin i of B holds
    confidences above i / B, up to (i + 1) / B.

    Args:
        pictures: the number of pictures in each bin.
        confidence: their mean confidence, from 0 to 1; None for a bin without pictures.
        accuracy: the share of them that is classified correctly; None for a bin without pictures.
    """

    pictures: Sequence[int]
    confidence: Sequence[Optional[float]]
    accuracy: Sequence[Optional[float]]

    @property
    def error(self) -> float:
        """
        The expected calibration error, from 0 to 1: the mean over all pictures of the distance between confidence and
        accuracy in their bin (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599, section 2).
        """
        gaps = [
            number * abs(confidence - accuracy)
            for number, confidence, accuracy in zip(self.pictures, self.confidence, self.accuracy)
            if confidence is not None and accuracy is not None
        ]
        return sum(gaps) / sum(self.pictures)

    @property
    def error_by_chance(self) -> float:
        """
        The calibration error that a classifier with these confidences would have on average if it were perfectly
        calibrated. It is not 0, because the accuracy of a few pictures differs from their confidence by chance.
        """
        gaps = [
            _mean_deviation(number, confidence)
            for number, confidence in zip(self.pictures, self.confidence)
            if confidence is not None
        ]
        return sum(gaps) / sum(self.pictures)

    @property
    def is_beyond_chance(self) -> bool:
        """
        Whether the error is more than two standard deviations above `error_by_chance`, which perfectly calibrated
        probabilities with these confidences would rarely show.
        """
        variances = [
            number * confidence * (1 - confidence) - _mean_deviation(number, confidence) ** 2
            for number, confidence in zip(self.pictures, self.confidence)
            if confidence is not None
        ]
        deviation = math.sqrt(max(0.0, sum(variances))) / sum(self.pictures)
        return self.error > self.error_by_chance + 2 * deviation


def measure_reliability(probabilities: torch.Tensor, labels: Labels, bins: int = BINS) -> Reliability:
    """
    Compare confidence and accuracy.

    Args:
        probabilities: the class probabilities (N, C) of N pictures.
        labels: their class indices (N,).
        bins: number of bins.

    Returns:
        The pictures in bins.

    Raises:
        ValueError: if an argument has another shape, or holds other values (see `labels.checked`).
    """
    probabilities, labels = checked(probabilities, labels, "probabilities")
    if probabilities.min() < 0 or (probabilities.sum(dim=-1) - 1).abs().max() > 1e-3:
        raise ValueError(
            "probabilities must add up to 1 for each picture, and none may be negative. Give softmax(-1)."
        )
    confidence, predicted = probabilities.max(dim=-1)  # (N,)
    bounds = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    place = torch.bucketize(confidence, bounds)  # (N,)
    number = torch.bincount(place, minlength=bins)
    sums = [torch.bincount(place, values, bins) for values in (confidence, (predicted == labels).double())]
    confidences, accuracies = [
        [value / n if n else None for value, n in zip(total.tolist(), number.tolist())] for total in sums
    ]
    return Reliability(number.tolist(), confidences, accuracies)


def expected_calibration_error(probabilities: torch.Tensor, labels: Labels, bins: int = BINS) -> float:
    """
    Measure how far confidence is from accuracy (see `Reliability.error`).

    Args:
        probabilities: the class probabilities (N, C) of N pictures.
        labels: their class indices (N,).
        bins: number of bins.

    Returns:
        The error, from 0 to 1.

    Raises:
        ValueError: if an argument has another shape, or holds other values (see `labels.checked`).
    """
    return measure_reliability(probabilities, labels, bins).error


def _mean_deviation(n: int, p: float) -> float:
    """The mean distance of a binomial number from its mean np, by De Moivre's formula."""
    if not 0 < p < 1:
        return 0.0
    k = math.floor(n * p) + 1
    log_choices = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return 2 * k * math.exp(log_choices + k * math.log(p) + (n - k + 1) * math.log1p(-p))
