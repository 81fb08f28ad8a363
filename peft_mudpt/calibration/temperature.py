"""Temperature scaling: one number makes the probabilities of a classifier as large as its accuracy allows."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .labels import Labels, checked


STEPS = 60  # of bisection: more than float64 tells apart


class NoTemperature(ValueError):
    """The pictures determine no temperature, because a limit, 0 or infinity, explains their labels best."""


def fit_temperature(logits: torch.Tensor, labels: Labels) -> float:
    """
    Fit the temperature T for which softmax(logits / T) explains the labels best (Guo et al. 2017, arXiv 1706.04599,
    section 4.2).

    The negative log-likelihood is convex in b = 1 / T. Its derivative, the mean over pictures of the expected logit
    under softmax(b logits) minus the logit of the label, grows with b, so that bisection finds its only root.

    Args:
        logits: the logits (N, C) of N pictures that were used neither for training nor for choosing its options.
        labels: their class indices (N,).

    Returns:
        The temperature. Above 1, it makes probabilities less certain; the order of the classes stays.

    Raises:
        NoTemperature: if all pictures are classified correctly, so that probabilities cannot be too certain, or if the
            logits tell no more than chance, so that they cannot be too uncertain.
        ValueError: if the logits or the labels have another shape, or hold other values (see `labels.checked`).
    """
    logits, labels = checked(logits, labels, "logits")
    logits = logits - logits.max(dim=-1, keepdim=True).values
    of_labels = logits.gather(1, labels[:, None]).mean().item()
    if of_labels == 0:
        raise NoTemperature(
            f"All {len(labels)} pictures are classified correctly, so that no temperature fits: the smaller the "
            "better. Calibrate on more pictures."
        )
    if logits.mean().item() >= of_labels:
        raise NoTemperature(
            f"The logits of these {len(labels)} pictures tell no more about their labels than chance, so that no "
            "temperature fits: the larger it is, the better. Check that the labels are right."
        )
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


def _root(derivative: Callable[[float], float]) -> float:
    """The positive number at which an increasing function is 0. It is negative at 0, and becomes positive."""
    low = high = 1.0
    while derivative(low) > 0:
        low /= 2
    while derivative(high) < 0:
        high *= 2
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if derivative(middle) > 0 else (middle, high)
    return (low + high) / 2
