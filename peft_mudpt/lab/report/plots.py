"""Plots of the results of experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Optional

from ...optional import require
from ..method import BLACK, BLUE, CLASSIFICATION, DETECTION, VERMILLION
from ..terminal import printable
from .calibration_plots import plot_reliability
from .detection import plot_examples, plot_precision_recall
from .drawing import (
    ACCURACY,
    FOR_PLOTS,
    NO_MATH,
    add_legend,
    finish,
    is_emphasized,
    label_of,
    looks_of,
    new_figure,
    points,
)
from .robust_plots import plot_robustness
from .rows import (
    BASE_TO_NEW_COLUMNS,
    Rows,
    base_to_new_rows,
    by_method,
    columns_of,
    few_shot_rows,
    is_untrained,
    mean_and_deviation,
    runs_of,
    runs_of_most_shots,
)
from .sections import Result, sections, task_of
from .shots import shots_in_words


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OVERVIEW, ACCURACY_BY_SHOTS, BASE_TO_NEW = "overview.png", "accuracy_by_shots.png", "base_to_new.png"
AXES = {CLASSIFICATION: ACCURACY, DETECTION: "mAP, %"}  # names of vertical axes
CLASSES_SHOWN = 12  # number of classes that gained most, and of classes that lost most


def plot_accuracy_by_shots(results: Sequence[Result]) -> Optional[Figure]:
    """
    Plot few-shot accuracy, or in detection mAP, by shots, with standard deviations over seeds. The plain model is a
    star at 0 shots, as in CoOp (arXiv 2109.01134).

    Args:
        results: results of one data set and model.

    Returns:
        The figure; None if the results hold nothing to plot.
    """
    return _single(few_shot_rows(results), draw_shots, AXES[task_of(results)])


def plot_base_to_new(results: Sequence[Result]) -> Optional[Figure]:
    """
    Plot base accuracy, new accuracy and their harmonic mean at the most shots, with standard deviations over seeds.

    Args:
        results: results of one data set and model.

    Returns:
        The figure; None if the results hold nothing to plot.
    """
    return _single(_base_to_new(results), _plot_bars, AXES[task_of(results)])


def plot_overview(results: Sequence[Result]) -> Optional[Figure]:
    """
    Plot accuracy by shots and base-to-new side by side with one legend. A protocol without results has no panel.

    Args:
        results: results of one data set and model.

    Returns:
        The figure; None if the results hold nothing to plot.
    """
    shots, bars = few_shot_rows(results), _base_to_new(results)
    panels = [(rows, plot) for rows, plot in ((shots, draw_shots), (bars, _plot_bars)) if rows]
    if not panels:
        return None
    figure = new_figure(6 * len(panels), 5.2)
    for axes, (rows, plot) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        plot(axes, rows, AXES[task_of(results)])
    add_legend(figure, columns=3 * len(panels))
    return figure


def _base_to_new(results: Sequence[Result]) -> Rows:
    return base_to_new_rows(runs_of_most_shots(results, "base-to-new"))


def _single(rows: Rows, plot: Callable[[Axes, Rows, str], None], axis: str) -> Optional[Figure]:
    if not rows:
        return None
    figure = new_figure(7, 5.5)
    plot(figure.subplots(), rows, axis)
    add_legend(figure, columns=4)
    return figure


def draw_shots(axes: Axes, rows: Rows, axis: str, title: str = "All classes") -> None:
    """
    Draw a panel with the means of rows by shots.

    Args:
        axes: the panel.
        rows: as from `few_shot_rows`.
        axis: name of the vertical axis.
        title: title of the panel.
    """
    columns = columns_of(rows)
    for name, look in looks_of(rows).items():
        where, averages, deviations = points(rows[name], columns)
        if is_untrained(name) and where:
            axes.plot([0], [mean(averages)], label=name, **look)
        elif where:
            axes.errorbar([columns[i] for i in where], averages, deviations, label=name, capsize=3, **look)
    axes.set_xscale("symlog", base=2, linthresh=1, linscale=0.5)  # log2, with 0 one step left of 1
    axes.set_xticks([0, *columns], [str(shots) for shots in (0, *columns)], minor=False)
    axes.set_xticks([], minor=True)
    finish(axes, title, "training pictures per class", axis)


def _plot_bars(axes: Axes, rows: Rows, axis: str) -> None:
    width = 0.85 / len(rows)
    for i, (name, look) in enumerate(looks_of(rows).items()):
        where, averages, deviations = points(rows[name], BASE_TO_NEW_COLUMNS)
        positions = [group + (i - (len(rows) - 1) / 2) * width for group in where]
        # related methods share a color, so that only the hatch distinguishes their bars
        hatch = {"--": "//", ":": "..", "-.": "xx"}.get(look.get("linestyle", "-"))
        fill = "white" if is_untrained(name) else look["color"]
        style = dict(color=fill, hatch=hatch, edgecolor="white", linewidth=0.5)
        if is_untrained(name) or is_emphasized(name):
            style |= dict(edgecolor=BLACK, linewidth=1.5)
        axes.bar(positions, averages, width, yerr=deviations, capsize=2, label=name, **style)
    axes.set_xticks(range(len(BASE_TO_NEW_COLUMNS)), ["base classes", "new classes", "harmonic mean"])
    finish(axes, "Base to new", "", axis)
    axes.grid(False, axis="x")


def plot_accuracy_by_parameters(results: Sequence[Result]) -> Optional[Figure]:
    """
    Plot few-shot accuracy, or in detection mAP, at the most shots by number of trainable parameters. The plain model,
    which has none, is a horizontal line.

    Args:
        results: results of one data set and model.

    Returns:
        The figure; None if the results hold nothing to plot.
    """
    rows = few_shot_rows(results)
    if not rows:
        return None
    shots, compared = columns_of(rows)[-1], runs_of_most_shots(results, "few-shot")
    trainable = {
        name: mean(member["trainable_parameters"] for member in members)
        for name, members in by_method(compared).items()
    }
    figure = new_figure(7, 5.5)
    axes = figure.subplots()
    for name, look in looks_of(rows).items():
        _, averages, deviations = points(rows[name], [shots])
        if is_untrained(name) and averages:
            axes.axhline(averages[0], label=name, color=look["color"], linestyle="--", linewidth=1)
        elif averages:
            axes.errorbar(
                [trainable[name]], averages, deviations, label=name, capsize=3, **{**look, "linestyle": "none"}
            )
    axes.set_xscale("log")
    finish(axes, f"{shots_in_words(compared, 'picture')} per class", "trainable parameters", AXES[task_of(results)])
    add_legend(figure, columns=4)
    return figure


def plot_class_gains(results: Sequence[Result], method: Optional[str] = None) -> Optional[Figure]:
    """
    Plot the classes that gained and lost most compared with zero-shot CLIP, for few-shot at the most shots.

    Args:
        results: results of one data set and model.
        method: row name of the method to show; None: the emphasized method (see `Method`), or if that has no results
            the most accurate one.

    Returns:
        The figure; None if the results hold nothing to plot.
    """
    rows = {name: row for name, row in few_shot_rows(results).items() if not is_untrained(name)}
    if not rows:
        return None
    shots = columns_of(rows)[-1]
    averages = {name: found[0] for name, row in rows.items() if (found := mean_and_deviation(row.get(shots, {})))}
    if method is None and averages:
        method = next(filter(is_emphasized, averages), None) or max(averages, key=averages.get)
    members = by_method(runs_of(results, "few-shot")[shots]).get(method, [])
    gains = _mean_gains(members)
    ranked = sorted(gains, key=gains.get, reverse=True)
    gained = [name for name in ranked[:CLASSES_SHOWN] if gains[name] > 0]
    lost = [name for name in ranked[-CLASSES_SHOWN:] if gains[name] < 0]
    if not gained and not lost:
        return None
    shown = (gained + lost)[::-1]  # the first bar is at the bottom
    figure = new_figure(7, 1.5 + 0.24 * len(shown))
    axes = figure.subplots()
    for label, color, part in (("gained", BLUE, gained), ("lost", VERMILLION, lost)):
        axes.barh([shown.index(name) for name in part], [gains[name] for name in part], color=color, label=label)
    axes.set_yticks(range(len(shown)), [printable(name) for name in shown], **NO_MATH)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    seeds = f"mean of {len(members)} seeds" if len(members) > 1 else "one seed"
    finish(
        axes,
        f"{label_of(method)}, {shots_in_words(members, 'picture')} per class, {seeds}",
        "accuracy minus zero-shot CLIP's, points",
        "",
    )
    axes.grid(False, axis="y")
    axes.legend(frameon=False)
    return figure


def _mean_gains(results: Iterable[Result]) -> dict[str, float]:
    gains: dict[str, list[float]] = {}
    for result in results:
        for test_set, metrics in result["metrics"].items():
            before = result["zero_shot"].get(test_set)
            if metrics is None or before is None:
                continue
            for name, (right, seen) in metrics["classes"].items():
                first_right, first_seen = before["classes"].get(name, (0, 0))
                if seen and first_seen:
                    gains.setdefault(name, []).append(100 * (right / seen - first_right / first_seen))
    return {name: mean(values) for name, values in gains.items()}


FIGURES: dict[str, dict[str, Callable[[Sequence[Result]], Optional[Figure]]]] = {
    CLASSIFICATION: {
        OVERVIEW: plot_overview,
        ACCURACY_BY_SHOTS: plot_accuracy_by_shots,
        BASE_TO_NEW: plot_base_to_new,
        "accuracy_by_parameters.png": plot_accuracy_by_parameters,
        "class_gains.png": plot_class_gains,
        "reliability.png": plot_reliability,
        "robustness.png": plot_robustness,
    },
    DETECTION: {
        OVERVIEW: plot_overview,
        "map_by_parameters.png": plot_accuracy_by_parameters,
        "precision_recall.png": plot_precision_recall,
        "detections.png": plot_examples,
    },
}


def plot_all(results: Sequence[Result]) -> dict[str, Figure]:
    """
    Plot every figure for which there are results.

    Args:
        results: results of one data set and model.

    Returns:
        The figures by file name.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if two results have the same row, column and seed in a table.
    """
    require("A plot", "report", *FOR_PLOTS)
    figures = {name: plot(results) for name, plot in FIGURES[task_of(results)].items()}
    (part,) = sections(results)
    for figure in filter(None, figures.values()):
        figure.suptitle(printable(f"{part.dataset}, {part.model}"), **NO_MATH)
    return {name: figure for name, figure in figures.items() if figure is not None}
