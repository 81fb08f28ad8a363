"""The beginning of the report of a single run: what its page shows first, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..calibration import calibration_lines
from ..method import CLASSIFICATION
from ..protocols import number_of_pictures
from .escaping import plain
from .markdown import markdown_table
from .per_class import ClassAccuracy, class_accuracies, confusions
from .sections import Result, task_of
from .verdict import before_training, verdict


CLASSES_LISTED, CONFUSIONS_LISTED = 100, 5


def single_run_blocks(results: Sequence[Result]) -> list[str]:
    """
    Say what a run has reached, on each of its test sets.

    Args:
        results: as from `read_results`.

    Returns:
        The verdict, the calibration error, the accuracy of each class and the most frequent confusions, as blocks of
        Markdown; none if there are several runs, if the only one detects objects, or if no picture was classified.
    """
    if len(results) != 1 or task_of(results) != CLASSIFICATION:
        return []
    (result,) = results
    tested = [name for name, metrics in result["metrics"].items() if metrics and number_of_pictures(metrics)]
    return [block for name in tested for block in _blocks(result, name, f": {plain(name)}" * (len(tested) > 1))]


def _blocks(result: Result, name: str, suffix: str) -> Iterator[str]:
    metrics, before = result["metrics"][name], before_training(result, name)
    yield f"## What the run has reached{suffix}"
    yield verdict(result, name)
    if found := calibration_lines({name: metrics}):
        yield "\n".join(f"- {title[0].upper()}{title[1:]}: {words}." for title, words in found)
    yield f"### Accuracy of each class{suffix}"
    yield "\n\n".join(_classes(class_accuracies(metrics, before, result["training_pictures"]), before is not None))
    if "predictions" in metrics and (confused := confusions(metrics)):
        yield f"### Which classes are confused{suffix}"
        rows = [(plain(one.name), plain(one.taken_for), f"{one.number:,} of {one.seen:,}") for one in confused]
        yield markdown_table(["class", "taken for", "pictures"], rows[:CONFUSIONS_LISTED])
        if (others := len(rows) - CONFUSIONS_LISTED) > 0:
            yield f"And {others:,} other confusions."


def _classes(accuracies: Sequence[ClassAccuracy], compares: bool) -> Iterator[str]:
    """The table of the classes, and what stands before and after it."""
    change = " The change is in percentage points." if compares else ""
    yield f"In %. The least accurate class stands first.{change}"
    header = ["class", "trained on", "right", "accuracy", *(["before training", "change"] if compares else [])]
    yield markdown_table(header, (_row(one)[: len(header)] for one in accuracies[:CLASSES_LISTED]))
    if len(accuracies) > CLASSES_LISTED:
        yield f"And {len(accuracies) - CLASSES_LISTED:,} more accurate classes, which `result.json` lists."


def _row(one: ClassAccuracy) -> list[str]:
    drawn = "–" if one.trained_on is None else f"{one.trained_on:,}"
    cells = [plain(one.name), drawn, f"{one.right:,} of {one.seen:,}", f"{one.accuracy:.1f}"]
    return cells + (["–", "–"] if one.change is None else [f"{one.accuracy_before:.1f}", f"{one.change:+.1f}"])
