"""Shows and writes what a test found, class by class and mistake by mistake."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from ..calibration import calibration_lines
from ..intervals import accuracy_in_words, wilson_interval
from ..storage import write_json, write_text
from ..terminal import printable
from .per_class import Metrics, confusion_matrix, confusions


if TYPE_CHECKING:
    from ..evaluation_job import Mistake, SavedEvaluation

SHOWN = 20  # lines of a list in a terminal
COLUMNS = 12  # of a confusion matrix in a terminal


def evaluation_lines(found: SavedEvaluation) -> list[str]:
    """
    Show the test of a saved adapter.

    Args:
        found: what was found.

    Returns:
        The lines: notes, the accuracy and the calibration error, then the classes, the confusion matrix and the
        mistakes.
    """
    named = [
        *(("note", note) for note in found.notes),
        ("accuracy", accuracy_in_words(found.metrics)),
        *calibration_lines({"test": found.metrics}),
    ]
    kind = "calibrated probability" if found.calibrated else "uncalibrated probability"
    sections = {
        "accuracy of each class (95 % interval)": class_lines(found.metrics),
        "confusion matrix (rows: true classes, columns: predicted ones)": confusion_lines(found.metrics),
        f"mistakes, with the {kind} of the predicted class": mistake_lines(found.mistakes),
    }
    lines = [f"{name:<26}{printable(value)}" for name, value in named]
    for title, of_section in sections.items():
        lines += ["", title, *of_section] if of_section else []
    return lines


def refuse_existing(files: Mapping[str, Optional[str | os.PathLike]]) -> None:
    """
    Refuse to replace files of the user, before the work begins.

    Args:
        files: the files that will be written, by the flags that name them; None is skipped.

    Raises:
        ValueError: if one of them exists.
    """
    for flag, file in files.items():
        if file is not None and os.path.lexists(file):
            raise ValueError(f"{flag} {file} exists. Give another file, or --overwrite to replace it.")


def write_evaluation(
    found: SavedEvaluation,
    output: Optional[str | os.PathLike] = None,
    confusion_matrix: Optional[str | os.PathLike] = None,
) -> None:
    """
    Write what a test found. It replaces files (see `refuse_existing`).

    Args:
        found: what was found.
        output: a JSON file for `found.as_dict()`; None: not written.
        confusion_matrix: a CSV file for the confusion matrix (see `confusion_csv`); None: not written.

    Raises:
        OSError: if a file cannot be written.
    """
    if output is not None:
        write_json(Path(output), found.as_dict())
    if confusion_matrix is not None:
        write_text(Path(confusion_matrix), confusion_csv(found.metrics))


def confusion_csv(metrics: Metrics) -> str:
    """
    Write a confusion matrix as CSV.

    Args:
        metrics: the metrics of the test set (see `evaluation.metrics_of`).

    Returns:
        A row for each class with the number of its pictures by predicted class, below a header.
    """
    matrix, text = confusion_matrix(metrics), io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["true \\ predicted", *matrix])
    rows.writerows([true, *counts] for true, counts in matrix.items())
    return text.getvalue()


def class_lines(metrics: Metrics) -> list[str]:
    """
    List the accuracy of each class that has pictures with its 95 % interval, the lowest first.

    Args:
        metrics: the metrics of the test set (see `evaluation.metrics_of`).

    Returns:
        The lines, at most `SHOWN` of classes.
    """
    seen = {name: counts for name, counts in metrics["classes"].items() if counts[1]}
    ranked = sorted(seen, key=lambda name: seen[name][0] / seen[name][1])
    width = max(len(printable(name)) for name in ranked[:SHOWN])
    lines = []
    for name in ranked[:SHOWN]:
        right, number = seen[name]
        low, high = wilson_interval(right, number)
        accuracy = f"{100 * right / number:5.1f} % ({low:.1f} to {high:.1f} %)"
        lines.append(f"  {printable(name):<{width}}  {right:,} of {number:,}  {accuracy}")
    return [*lines, *_rest(len(ranked), "classes")]


def confusion_lines(metrics: Metrics) -> list[str]:
    """
    Show a confusion matrix, without the empty rows of classes that have no pictures. If it is large, list the classes
    that are confused most often.

    Args:
        metrics: the metrics of the test set (see `evaluation.metrics_of`).

    Returns:
        The lines; none if all predictions are right.
    """
    wrong = confusions(metrics)
    if not wrong:
        return []
    occurring = {name for true, items in metrics["predictions"].items() for name in (true, *items.values())}
    if len(occurring) > COLUMNS:  # too wide for a terminal
        lines = [f"  {w.number:5,}  {printable(w.name)} taken for {printable(w.taken_for)}" for w in wrong[:SHOWN]]
        return [*lines, *_rest(len(wrong), "pairs of classes")]
    matrix = confusion_matrix(metrics, [name for name in metrics["classes"] if name in occurring])
    absent = [f"{row} {name}" for row, (name, counts) in enumerate(matrix.items(), start=1) if not any(counts)]
    width = 2 + max(2, *(len(str(count)) for counts in matrix.values() for count in counts))
    label = max(len(printable(name)) for name in matrix) + 4
    lines = [" " * label + "".join(f"{column:>{width}}" for column in range(1, len(matrix) + 1))]
    for row, (name, counts) in enumerate(matrix.items(), start=1):
        if any(counts):
            cells = "".join(f"{count or '.':>{width}}" for count in counts)
            lines.append(f"{row:>2}  {printable(name)}".ljust(label) + cells)
    if absent:
        have = "predicted class has" if len(absent) == 1 else "predicted classes have"
        lines.append(f"{len(absent)} {have} no pictures, and so no row: {printable(', '.join(absent))}")
    return lines


def mistake_lines(mistakes: Sequence[Mistake]) -> list[str]:
    """
    List mistakes.

    Args:
        mistakes: the mistakes, in the order of the list.

    Returns:
        The lines, at most `SHOWN` of mistakes.
    """
    lines = [
        f"  {100 * wrong.probability:5.1f} %  " + printable(f"{wrong.picture}: {wrong.predicted}, not {wrong.true}")
        for wrong in mistakes[:SHOWN]
    ]
    return [*lines, *_rest(len(mistakes), "mistakes")]


def _rest(number: int, what: str) -> list[str]:
    return [f"  ... and {number - SHOWN:,} more {what}"] if number > SHOWN else []
