"""Says how precise the accuracies of a report are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from ..intervals import interval_of
from ..method import CLASSIFICATION
from ..protocols import number_of_pictures
from .markdown import markdown_table
from .rows import runs_by_test
from .sections import Result, Section


def precision_tables(section: Section) -> dict[str, str]:
    """
    Make the table of the intervals of the best accuracies, one line for each protocol, number of shots and test set.

    Args:
        section: the results of one model on one data set.

    Returns:
        The table by its title; an empty dict if no picture was classified.
    """
    if section.task != CLASSIFICATION:
        return {}
    lines = []
    for title, results, test in runs_by_test(section.results, _tests_of):
        tested = filter(_has_pictures, (result["metrics"].get(test) for result in results))
        metrics = max(tested, key=lambda one: one["accuracy"])
        low, high = interval_of(metrics)
        pictures = f"{number_of_pictures(metrics):,}"
        lines.append([title, pictures, f"{metrics['accuracy']:.1f}", f"{low:.1f} to {high:.1f}"])
    if not lines:
        return {}
    about = "In %: the best accuracy of a run, and the 95 % interval of its accuracy on all pictures like these."
    table = markdown_table(["runs", "test pictures", "best accuracy", "95 % interval"], lines)
    return {"How precise a single run is": f"{about}\n\n{table}"}


def _tests_of(results: Sequence[Result]) -> list[str]:
    """The test sets with pictures."""
    found = (name for result in results for name, metrics in result["metrics"].items() if _has_pictures(metrics))
    return list(dict.fromkeys(found))


def _has_pictures(metrics: Optional[Mapping[str, Any]]) -> bool:
    return metrics is not None and number_of_pictures(metrics) > 0
