"""A test set on the page of a run: its numbers, classes, confusions, mistakes and probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from ...calibration import error_in_words, hold_too_many, probabilities_in_words
from ...intervals import interval_in_words
from ...protocols import number_of_pictures, number_of_right
from ...run_pictures import RunPictures
from ..calibration import MEANING, SETS, measured_on
from ..calibration_plots import LEAST, TITLES
from ..per_class import Metrics, class_accuracies, confusion_matrix, confusions, mistakes
from ..sections import Result
from ..verdict import before_training, verdict
from .thumbnails import Thumbnails


CLASSES_LISTED, CONFUSIONS_LISTED, MISTAKES_LISTED = 1000, 100, 200
CONFUSIONS_SHOWN, MISTAKES_SHOWN = 5, 12  # the others are folded
FEW_WRONG = 10  # percent of the pictures; among more mistakes, wrong labels are rare
CLASSES_OF_MATRIX = 40  # a larger one is not readable
SHADES = 3  # of a color
PARTS = {"classes": "Classes", "confused": "Confusions", "mistakes": "Mistakes", "trust": "Probabilities"}


class Number(NamedTuple):
    """A number at the head of a page."""

    title: str
    value: str
    note: str


class Cell(NamedTuple):
    """A cell of the confusion matrix."""

    number: int
    look: str


class Bin(NamedTuple):
    """A bar of a reliability diagram, in percent; but `pictures` is a number, and `share` that of the fullest bin."""

    low: int
    width: int
    pictures: int
    share: float
    confidence: float
    accuracy: float
    is_few: bool


def tested_values(
    result: Result, name: str, pictures: RunPictures, most: int, anchor: str, is_one_of_several: bool
) -> dict[str, Any]:
    """
    Collect what the page of a run shows of a test set.

    Args:
        result: a result of classification.
        name: the name of the test set.
        pictures: the pictures of the run.
        most: how many pictures are shown.
        anchor: what the anchors of the page begin with.
        is_one_of_several: whether the page shows other test sets, too.

    Returns:
        The values.
    """
    metrics, before = result["metrics"][name], before_training(result, name)
    suffix = f": {name}" if is_one_of_several else ""
    accuracies = class_accuracies(metrics, before, result["training_pictures"])
    return {
        "id": anchor,
        "name": name,
        "suffix": suffix,
        "contents": [(f"{anchor}-{part}", words + suffix) for part, words in PARTS.items()],
        "verdict": verdict(result, name),
        "numbers": list(_numbers(metrics, before)),
        "number_of_pictures": number_of_pictures(metrics),
        "number_of_classes": len(metrics["classes"]),
        "compares": before is not None,
        "knows_training": result["training_pictures"] is not None,
        "accuracies": accuracies[:CLASSES_LISTED],
        "unlisted_accuracies": len(accuracies[CLASSES_LISTED:]),
        "wrong": _wrong_values(metrics, name, Thumbnails(pictures, most)) if "predictions" in metrics else None,
        "calibration": _calibration_values(result, name),
    }


def _numbers(metrics: Metrics, before: Optional[Metrics]) -> Iterator[Number]:
    seen, right = number_of_pictures(metrics), number_of_right(metrics)
    note = f"{right:,} of {seen:,} test pictures; {interval_in_words(metrics)}"
    yield Number("Accuracy", f"{metrics['accuracy']:.1f} %", note)
    note = "if each class counts the same, however many pictures it has"
    yield Number("Balanced accuracy", f"{metrics['mean_class_accuracy']:.1f} %", note)
    if before is not None:
        note = "zero-shot: the same CLIP, which has seen no training picture"
        yield Number("Accuracy before training", f"{before['accuracy']:.1f} %", note)
    if found := metrics.get("calibration"):
        last = found["after"] or found["before"]
        how = "calibrated" if found["after"] else "not calibrated"
        note = f"how far probabilities are off, {how}; {error_in_words(last)}"
        yield Number("Calibration error", f"{last['error']:.1f} %", note)


def _wrong_values(metrics: Metrics, name: str, thumbnails: Thumbnails) -> dict[str, Any]:
    """The classes that are confused, and the pictures that are classified wrongly."""
    wrong, confused = mistakes(metrics), confusions(metrics)
    listed = [(one, thumbnails.make(name, one.item)) for one in wrong[:MISTAKES_LISTED]]
    shown = [(one, found) for one, found in listed if found is not None]
    return {
        "confusions": confused[:CONFUSIONS_SHOWN],
        "other_confusions": confused[CONFUSIONS_SHOWN:CONFUSIONS_LISTED],
        "unlisted_confusions": len(confused[CONFUSIONS_LISTED:]),
        "matrix": _cells(confusion_matrix(metrics)) if len(metrics["classes"]) <= CLASSES_OF_MATRIX else None,
        "shown": shown[:MISTAKES_SHOWN],
        "folded": shown[MISTAKES_SHOWN:],
        "named": [one for one, found in listed if found is None],
        "unlisted_mistakes": len(wrong[MISTAKES_LISTED:]),
        "number_of_mistakes": len(wrong),
        "few_wrong": FEW_WRONG,
        "may_be_labels": 100 * len(wrong) <= FEW_WRONG * number_of_pictures(metrics),
        "knows_probabilities": "mistakes" in metrics,
        "calibrated": probabilities_in_words(metrics.get("mistakes_temperature")),
        "missing": thumbnails.missing,
    }


def _cells(matrix: Mapping[str, Sequence[int]]) -> dict[str, list[Cell]]:
    """The confusion matrix with the look of each cell: r or w for right or wrong, and the number of its shade."""
    cells = {}
    for i, (name, row) in enumerate(matrix.items()):
        kinds = ["r" if i == j else "w" for j in range(len(row))]
        shades = [-(-SHADES * number // max(1, sum(row))) for number in row]  # by the share of the row, rounded up
        looks = [f"{kind}{shade}" if shade else "" for kind, shade in zip(kinds, shades)]
        looks[i] += " own"
        cells[name] = [*map(Cell, row, looks)]
    return cells


def _calibration_values(result: Result, name: str) -> Optional[dict[str, Any]]:
    found = measured_on(result, name)
    if found is None:
        return None
    return {
        "meaning": MEANING,
        "least": LEAST,
        "diagrams": [
            {
                "title": title[0].upper() + title[1:],
                "error": found[moment]["error"],
                "by_chance": found[moment]["error_by_chance"],
                "bins": list(_bins(found[moment])),
            }
            for moment, title in TITLES.items()
            if found[moment] is not None
        ],
        "sets_meaning": SETS,
        "sets": found["sets"],
        "hold_too_many": any(hold_too_many(one, len(result["metrics"][name]["classes"])) for one in found["sets"]),
        "is_calibrated": result["calibration"] is not None,
    }


def _bins(reliability: Mapping[str, Any]) -> Iterator[Bin]:
    """The bins of a reliability diagram that have pictures."""
    width, most = 100 // len(reliability["pictures"]), max(reliability["pictures"])
    of_bins = zip(reliability["pictures"], reliability["confidence"], reliability["accuracy"])
    for i, (number, confidence, accuracy) in enumerate(of_bins):
        if number:
            yield Bin(i * width, width, number, number / most, 100 * confidence, 100 * accuracy, number < LEAST)
