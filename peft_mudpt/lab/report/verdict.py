"""Says in plain sentences what a run has reached: the beginning of its page and of its report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from ..intervals import CONFIDENCE, interval_of, sign_test
from ..methods import methods_of_all_tasks
from ..protocols import number_of_pictures, number_of_right
from .per_class import Metrics, changed_pictures
from .sections import Result


def before_training(result: Result, test: str) -> Optional[Metrics]:
    """
    Find what the same CLIP reached before training.

    Args:
        result: a result of classification.
        test: name of a test set.

    Returns:
        The metrics of zero-shot; None if they were not measured, or if the run is zero-shot itself.
    """
    method = methods_of_all_tasks().get(result["method"])
    return (result["zero_shot"] or {}).get(test) if method is None or method.is_trained else None


def verdict(result: Result, test: str) -> str:
    """
    Say how many pictures of a test set are recognized, and whether that is more than by guessing and before training.

    Args:
        result: a result of classification.
        test: name of a test set with pictures.

    Returns:
        Some sentences. They name a difference only if chance does not explain it.
    """
    metrics, before = result["metrics"][test], before_training(result, test)
    sentences = [*_alone(metrics, result["arguments"].get("evaluate_on", "test"))]
    sentences += [] if before is None else [_compared(metrics, before)]
    return " ".join(f"{sentence}." for sentence in sentences)


def _alone(metrics: Metrics, kind: str) -> Iterator[str]:
    right, seen, classes = number_of_right(metrics), number_of_pictures(metrics), len(metrics["classes"])
    low, high = interval_of(metrics)
    yield (
        f"Of {seen:,} {kind} {'picture' if seen == 1 else 'pictures'}, {right:,} {'was' if right == 1 else 'were'} "
        f"recognized: {metrics['accuracy']:.1f} %, or {low:.1f} to {high:.1f} % on all pictures like these "
        f"({100 * CONFIDENCE:.0f} % interval)"
    )
    guessed = 100 / classes
    may_be_guessed = ", which the interval does not exclude" if low <= guessed <= high else ""
    yield f"Guessing among {classes:,} classes would reach {guessed:.1f} %{may_be_guessed}"


def _compared(metrics: Metrics, before: Metrics) -> str:
    words = f"Before training, the same CLIP recognized {number_of_right(before):,} ({before['accuracy']:.1f} %)"
    changed = changed_pictures(metrics, before)
    if changed is None:
        return words
    gained, lost = changed
    if sign_test(gained, lost) > 1 - CONFIDENCE:
        return f"{words}; the difference may be chance"
    return f"{words}; training has {'improved' if gained > lost else 'worsened'} that by more than chance explains"
