"""What a run's test pictures tell about each class: its accuracy, the classes it is taken for, and the mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional


Metrics = Mapping[str, Any]  # of a test set, see `schema.FIELDS`


class ClassAccuracy(NamedTuple):
    """How many pictures of a class are classified correctly: `right` of `seen`, and `right_before` by zero-shot."""

    name: str
    right: int
    seen: int
    right_before: Optional[int]
    trained_on: Optional[int]  # pictures; None if unknown

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * self.right / self.seen

    @property
    def accuracy_before(self) -> Optional[float]:
        """That of zero-shot, in percent; None if it is unknown."""
        return None if self.right_before is None else 100 * self.right_before / self.seen

    @property
    def change(self) -> Optional[float]:
        """In percentage points; None if zero-shot is unknown."""
        return None if self.right_before is None else self.accuracy - self.accuracy_before


class Confusion(NamedTuple):
    """`number` of the `seen` pictures of the class `name` are taken for the class `taken_for`."""

    name: str
    taken_for: str
    number: int
    seen: int


class Mistake(NamedTuple):
    """A picture of the class `name` that is taken for `taken_for`; the probabilities of classes, if they are known."""

    item: str
    name: str
    taken_for: str
    percent: Mapping[str, float]


def class_accuracies(
    metrics: Metrics, before: Optional[Metrics], training_pictures: Optional[Mapping[str, int]]
) -> list[ClassAccuracy]:
    """
    Count the correct pictures of each class that has test pictures.

    Args:
        metrics: the metrics of a test set.
        before: those of zero-shot; None: not measured, or the same.
        training_pictures: number of training pictures by class; None: unknown.

    Returns:
        The classes, the least accurate first; among equal ones in their order.
    """
    known, drawn = (before or {}).get("classes", {}), training_pictures or {}
    found = [
        ClassAccuracy(name, right, seen, known[name][0] if name in known else None, drawn.get(name))
        for name, (right, seen) in metrics["classes"].items()
        if seen
    ]
    return sorted(found, key=lambda one: one.accuracy)


def confusion_matrix(metrics: Metrics, names: Optional[Sequence[str]] = None) -> dict[str, list[int]]:
    """
    Count how often each class is taken for each.

    Args:
        metrics: the metrics of a test set, with predictions.
        names: the classes that are compared; None: all.

    Returns:
        For each class the number of its pictures that are taken for each class, in the order of the classes.
    """
    names = list(metrics["classes"]) if names is None else names
    taken = {name: Counter(metrics["predictions"].get(name, {}).values()) for name in names}
    return {name: [taken[name][other] for other in names] for name in names}


def confusions(metrics: Metrics) -> list[Confusion]:
    """
    List the pairs of classes that are confused.

    Args:
        metrics: the metrics of a test set, with predictions.

    Returns:
        The pairs, the most frequent first.
    """
    found = [
        Confusion(name, taken_for, number, len(items))
        for name, items in metrics["predictions"].items()
        for taken_for, number in Counter(items.values()).items()
        if taken_for != name
    ]
    return sorted(found, key=lambda one: -one.number)


def mistakes(metrics: Metrics) -> list[Mistake]:
    """
    List the pictures that are classified wrongly.

    Args:
        metrics: the metrics of a test set, with predictions.

    Returns:
        The pictures, the one first whose wrong class got the highest probability.
    """
    percents = metrics.get("mistakes", {})
    found = [
        Mistake(item, name, taken_for, percents.get(name, {}).get(item, {}))
        for name, items in metrics["predictions"].items()
        for item, taken_for in items.items()
        if taken_for != name
    ]
    return sorted(found, key=lambda one: -one.percent.get(one.taken_for, 0))


def changed_pictures(metrics: Metrics, before: Metrics) -> Optional[tuple[int, int]]:
    """
    Count the pictures on which two classifiers differ.

    Args:
        metrics: the metrics of a test set.
        before: those of another classifier on the same pictures.

    Returns:
        How many pictures only the first classifies correctly, and how many only the other; None if the predictions of
        one are unknown, as in results of earlier versions.
    """
    if "predictions" not in metrics or "predictions" not in before:
        return None
    ours, theirs = (
        {(name, item) for name, items in one["predictions"].items() for item, other in items.items() if other == name}
        for one in (metrics, before)
    )
    return len(ours - theirs), len(theirs - ours)
