"""How precise an accuracy is that was measured on some pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from .protocols import number_of_pictures, number_of_right


CONFIDENCE = 0.95


def wilson_interval(right: int, seen: int) -> tuple[float, float]:
    """
    Compute Wilson's score interval (Wilson 1927, J. Am. Stat. Assoc. 22, p. 209): the accuracies on all pictures like
    these that agree with what was seen. Unlike the usual mean ± 1.96 standard errors, it also holds for few pictures
    and for accuracies near 100 %.

    Args:
        right: number of pictures that are classified correctly.
        seen: number of pictures, drawn independently of each other.

    Returns:
        Its lower and upper end, in percent. 95 % of such intervals hold the accuracy on all pictures.

    Raises:
        ValueError: if there is no picture, or if `right` is not from 0 to `seen`.
    """
    if not 0 <= right <= seen or seen == 0:
        raise ValueError(f"Found {right} right of {seen} pictures; give a number from 0 to that of the pictures.")
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, scale = right / seen, 1 + z * z / seen
    center = (share + z * z / (2 * seen)) / scale
    half = z * math.sqrt(share * (1 - share) / seen + z * z / (4 * seen * seen)) / scale
    return 100 * max(0.0, center - half), 100 * min(1.0, center + half)


def sign_test(gained: int, lost: int) -> float:
    """
    Test whether one of two classifiers is better, by the pictures on which only one of them is right: the exact form
    of McNemar's test (McNemar 1947, Psychometrika 12, p. 153).

    Args:
        gained: number of pictures that only the first classifies correctly.
        lost: number of pictures that only the second classifies correctly.

    Returns:
        The probability that two equally good classifiers differ at least that much; 1 if they do not differ.
    """
    number = gained + lost
    logs = (
        math.lgamma(number + 1) - math.lgamma(k + 1) - math.lgamma(number - k + 1) - number * math.log(2)
        for k in range(min(gained, lost) + 1)
    )
    return min(1.0, 2 * sum(map(math.exp, logs)))


def interval_of(metrics: Mapping[str, Any]) -> tuple[float, float]:
    """
    Compute the interval of the accuracy on a test set.

    Args:
        metrics: the metrics of a test set (see `evaluation.metrics_of`).

    Returns:
        Its lower and upper end, in percent.

    Raises:
        ValueError: if the test set has no picture.
    """
    return wilson_interval(number_of_right(metrics), number_of_pictures(metrics))


def interval_in_words(metrics: Mapping[str, Any]) -> str:
    """
    Write down the interval of the accuracy on a test set.

    Args:
        metrics: the metrics of a test set (see `evaluation.metrics_of`).

    Returns:
        The interval, such as "95 % interval: 83.3 to 99.4 %".
    """
    low, high = interval_of(metrics)
    return f"{100 * CONFIDENCE:.0f} % interval: {low:.1f} to {high:.1f} %"


def accuracy_in_words(metrics: Mapping[str, Any]) -> str:
    """
    Say how high an accuracy is, and how precise.

    Args:
        metrics: the metrics of a test set (see `evaluation.metrics_of`).

    Returns:
        The accuracy, the number of pictures, the 95 % interval and the balanced accuracy, such as "96.7 % of 30
        pictures (95 % interval: 83.3 to 99.4 %), balanced 96.7 %".
    """
    right, seen = number_of_right(metrics), number_of_pictures(metrics)
    balanced = metrics["mean_class_accuracy"]
    return f"{100 * right / seen:.1f} % of {seen:,} pictures ({interval_in_words(metrics)}), balanced {balanced:.1f} %"
