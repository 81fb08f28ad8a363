"""Tables and plots of average precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Optional

from ..detection.evaluation import MEASURES
from ..method import CLASSIFICATION, DETECTION
from ..run_folder import EXAMPLES
from ..schema import FOLDER
from .drawing import add_legend, finish, is_emphasized, looks_of, new_figure
from .markdown import accuracy_table
from .rows import Column, by_method, rows_of, runs_of
from .sections import Result, Section, main_measure
from .shots import shots_in_words


if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAIN_TITLES = {CLASSIFICATION: "Accuracy", DETECTION: MEASURES["map"]}  # the main measure of a task, in tables
RECALLS = [number / 100 for number in range(101)]  # of the field `precision` of a result


def detection_tables(section: Section) -> dict[str, str]:
    """
    Make the tables of average precision at single overlaps and of single classes, for the most shots.

    Args:
        section: the results of one model on one data set.

    Returns:
        The tables by title; an empty dict if there are no results of detection.
    """
    results = _of_most_shots(section.results) if section.task == DETECTION else []
    if not results:
        return {}
    shots = shots_in_words(results)

    def measured(result: Result) -> dict[Column, Optional[float]]:
        return {MEASURES[name]: result["summary"].get(name) for name in ("ap50", "ap75", "map")}

    measures, classes = rows_of(results, measured), rows_of(results, lambda result: _tested(result)["classes"])
    return {
        f"Overlaps, {shots}": accuracy_table(measures, "Average precision"),
        f"Classes, {shots}": accuracy_table(classes, "Average precision of each class"),
    }


def _of_most_shots(results: Sequence[Result]) -> list[Result]:
    """The results with the most shots, and those of untrained methods, which do not depend on shots."""
    by_shots = runs_of(results, "few-shot")
    if not by_shots:
        return []
    most = max(by_shots)
    untrained = [r for shots, own in by_shots.items() for r in own if shots < most and r["learning_rate"] is None]
    return [*by_shots[most], *untrained]


def _tested(result: Result) -> dict[str, Any]:
    """The metrics of the only test set of a result."""
    (metrics,) = result["metrics"].values()
    return metrics


def plot_precision_recall(results: Sequence[Result]) -> Optional[Figure]:
    """
    Plot precision by recall at the overlap 0.5 and the most shots: the mean over classes and seeds.

    Args:
        results: results of detection on one data set.

    Returns:
        The figure; None if the results hold nothing to plot.
    """
    shown = _of_most_shots(results)
    rows = by_method(shown)
    if not rows:
        return None
    figure = new_figure(7, 5.5)
    axes = figure.subplots()
    for name, look in looks_of(rows).items():
        curves = [curve for r in rows[name] for curve in _tested(r)["precision"].values() if curve is not None]
        style = {**look, "linestyle": look.get("linestyle", "-").replace("none", "-"), "markevery": 10}
        axes.plot(RECALLS, [mean(values) for values in zip(*curves)], label=name, **style)
    pictures = shots_in_words(shown, "picture")
    finish(axes, f"Overlap 0.5, {pictures} per class, mean over classes", "recall", "precision, %")
    add_legend(figure, columns=4)
    return figure


def plot_examples(results: Sequence[Result]) -> Optional[Figure]:
    """
    Show the test pictures with the boxes that the emphasized method found, with the most shots and the first seed, or
    of the best other method if it was not run.

    Args:
        results: results of detection on one data set, with their folders.

    Returns:
        The figure; None if no run has such pictures.
    """
    found = [r for r in _of_most_shots(results) if FOLDER in r and (Path(r[FOLDER]) / EXAMPLES).is_file()]
    if not found:
        return None
    chosen = min(found, key=lambda r: (not is_emphasized(r["method"]), -(main_measure(r) or 0), _seed(r)))
    from matplotlib.image import imread

    image = imread(Path(chosen[FOLDER]) / EXAMPLES)
    height, width = image.shape[:2]
    figure = new_figure(width / 100, height / 100 + 0.4)
    axes = figure.subplots()
    axes.imshow(image)
    axes.set_axis_off()
    pictures = shots_in_words([chosen], "picture")
    finish(axes, f"{chosen['method']}, {pictures} per class", "", "")
    return figure


def _seed(result: Result) -> int:
    return result["arguments"]["seed"]
