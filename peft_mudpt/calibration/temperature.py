"""Temperature scaling: one number makes the probabilities of a classifier as large as its accuracy allows."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .labels import Labels, checked


STEPS = 60  # of bisection: more than float64 tells apart
ROUNDING = 1e-12  # two means of probabilities that differ by less are equal


class NoTemperature(ValueError):
    """The pictures determine no temperature."""


def fit_temperature(logits: torch.Tensor, labels: Labels) -> float:
    """
    Fit the temperature T for which softmax(logits / T) explains the labels best (Guo et al. 2017, arXiv 1706.04599,
    section 4.2).

    The negative log-likelihood is convex in b = 1 / T. Its derivative, the mean over pictures of the expected logit
    under softmax(b logits) minus the logit of the label, grows with b, so that bisection finds its only root.

    If all N pictures are classified correctly, the likelihood only grows as T falls to 0. T is then the one at which
    the mean probability of the labels is (N + 1) / (N + 2), the accuracy that is to be expected after N right answers
    in N pictures (Laplace's rule of succession); but at most 1, because nothing says that probabilities are too high.

    Args:
        logits: the logits (N, C) of N pictures that were used neither for training nor for choosing its options.
        labels: their class indices (N,).

    Returns:
        The temperature. Above 1, it makes probabilities less certain; the order of the classes stays.

    Raises:
        NoTemperature: if the logits tell no more than chance, so that probabilities cannot be too uncertain, or if the
            highest logit is that of several classes so often that none can be certain enough.
        ValueError: if the logits or the labels have another shape, or hold other values (see `labels.checked`).
    """
    logits, labels = checked(logits, labels, "logits")
    logits = logits - logits.max(dim=-1, keepdim=True).values
    of_labels = logits.gather(1, labels[:, None]).mean().item()
    if logits.mean().item() >= of_labels:
        raise NoTemperature(
            f"The logits of these {len(labels)} pictures tell no more about their labels than chance, so that no "
            "temperature fits: the larger it is, the better. Check that the labels are right."
        )
    if of_labels == 0:
        return _where_all_are_right(logits)
    return 1 / _root(lambda b: (softmax(logits, 1 / b) * logits).sum(dim=-1).mean().item() - of_labels)


def softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """
    The probabilities at a temperature. In float64, different logits give different ones, so that the order of the
    classes stays.

    Args:
        logits: logits (..., C).
        temperature: what they are divided by.

    Returns:
        Probabilities (..., C) in float64.
    """
    return (logits.double() / temperature).softmax(dim=-1)


def _where_all_are_right(logits: torch.Tensor) -> float:
    """The temperature for logits (N, C) whose largest, that of the label, is 0."""
    expected = (len(logits) + 1) / (len(logits) + 2)

    def excess(b: float) -> float:
        return softmax(logits, 1 / b).amax(dim=-1).mean().item() - expected

    if excess(1.0) >= 0:
        return 1.0
    most = (1 / (logits == 0).sum(dim=-1).double()).mean().item()  # at temperature 0
    if most < expected + ROUNDING:
        raise NoTemperature(
            f"The highest logit is that of several classes for so many of these {len(logits)} pictures that no "
            "temperature fits. Calibrate on more pictures."
        )
    return 1 / _root(excess)


def _root(function: Callable[[float], float]) -> float:
    """The positive number at which an increasing function is 0. It is negative at 0, and becomes positive."""
    low = high = 1.0
    while function(low) > 0:
        low /= 2
    while function(high) < 0:
        high *= 2
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if function(middle) > 0 else (middle, high)
    return (low + high) / 2
