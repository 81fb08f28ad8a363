"""The plot of several data sets: a panel for each, and one for their mean, as in CoOp (arXiv 2109.01134, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..terminal import printable
from .drawing import NO_MATH, add_legend, new_figure
from .plots import AXES, draw_shots, plot_all
from .rows import Rows, few_shot_rows, mean_over_data_sets
from .sections import Section, parts_of_models


if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL_DATA_SETS = "all data sets"  # the title of these plots, beside those of the sections
BY_DATA_SET = "accuracy_by_data_set.png"
COLUMNS = 3


def plot_report(parts: Sequence[Section]) -> dict[str, dict[str, Figure]]:
    """
    Plot every figure of a report for which there are results.

    Args:
        parts: the results of each model on each data set.

    Returns:
        The figures by file name, by title: those of several data sets, then those of each section.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if two results have the same row, column and seed in a table.
    """
    of_sections = {part.title: plot_all(part.results) for part in parts}
    return {**plot_data_sets(parts), **of_sections}


def plot_data_sets(parts: Sequence[Section]) -> dict[str, dict[str, Figure]]:
    """
    Plot few-shot accuracy, or in detection mAP, by shots: the mean over data sets, then each data set.

    Args:
        parts: the results of each model on each data set.

    Returns:
        The figures by file name, by title, one for each model with few-shot results on several data sets.

    Raises:
        ValueError: if two results have the same row, column and seed.
    """
    figures = {}
    for of_model, suffix, _ in parts_of_models(parts):
        rows = {part.title: few_shot_rows(part.results) for part in of_model}
        rows = {title: found for title, found in rows.items() if found}
        if len(rows) > 1:
            figures[ALL_DATA_SETS + suffix] = {BY_DATA_SET: _plot(rows, of_model[0])}
    return figures


def _plot(rows_by_data_set: dict[str, Rows], part: Section) -> Figure:
    mean = mean_over_data_sets(list(rows_by_data_set.values()))
    panels = {f"Mean over {len(rows_by_data_set)} data sets": mean} if mean else {}
    panels |= rows_by_data_set
    lines = -(-len(panels) // COLUMNS)
    figure = new_figure(4.5 * COLUMNS, 3.8 * lines + 1)
    grid = list(figure.subplots(lines, COLUMNS, squeeze=False).flat)
    for axes, (title, rows) in zip(grid, panels.items()):
        draw_shots(axes, rows, AXES[part.task], title)
    for axes in grid[len(panels) :]:
        axes.remove()
    add_legend(figure, columns=COLUMNS)
    figure.suptitle(printable(part.model), **NO_MATH)
    return figure
