"""Plots of the accuracy on attacked test pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

from .drawing import ACCURACY, add_legend, finish, looks_of, new_figure, points
from .robustness import robust_curves, test_sets
from .rows import Column, Rows, columns_of, mean_and_deviation, runs_of_most_shots
from .sections import Result


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_robustness(results: Sequence[Result]) -> Optional[Figure]:
    """
    Plot few-shot accuracy on attacked pictures by the size of the attack, one panel per attack; and, for the last
    attack, accuracy on attacked pictures by accuracy on clean ones.

    Args:
        results: results of one data set and model.

    Returns:
        The figure; None if no pictures were attacked.
    """
    attacked = runs_of_most_shots(results, "few-shot")
    if not (names := test_sets(attacked)):
        return None
    curves = robust_curves(attacked, names[0])
    figure = new_figure(5 * (len(curves) + 1), 5.2)
    *panels, last = figure.subplots(1, len(curves) + 1)
    for axes, (name, rows) in zip(panels, curves.items()):
        _plot_curves(axes, name, rows)
    _plot_trade_off(last, *list(curves.items())[-1])
    add_legend(figure, columns=3 * (len(curves) + 1))
    return figure


def _plot_curves(axes: Axes, name: str, rows: Rows) -> None:
    columns = columns_of(rows)
    for row, look in looks_of(rows).items():
        where, averages, deviations = points(rows[row], columns)
        # zero-shot CLIP has a look without a line
        look = {**look, "linestyle": ":" if look.get("linestyle") == "none" else look.get("linestyle", "-")}
        axes.errorbar([columns[i] for i in where], averages, deviations, label=row, capsize=3, **look)
    axes.set_ylim(bottom=0)
    finish(axes, name, "eps, levels of 255", ACCURACY)


def _plot_trade_off(axes: Axes, name: str, rows: Rows) -> None:
    eps = _most_different(rows)
    for row, look in looks_of(rows).items():
        clean, attacked = (mean_and_deviation(rows[row].get(column, {})) for column in (0.0, eps))
        if clean and attacked:
            axes.plot([clean[0]], [attacked[0]], label=row, **{**look, "linestyle": "none"})
    finish(axes, f"{name} {eps:g}/255", "accuracy on clean pictures, %", "accuracy on attacked pictures, %")


def _most_different(rows: Rows) -> Column:
    """The eps at which the rows differ most."""

    def spread(column: Column) -> float:
        averages = [found[0] for row in rows.values() if (found := mean_and_deviation(row.get(column, {})))]
        return max(averages) - min(averages) if averages else 0.0

    return max([column for column in columns_of(rows) if column != 0], key=spread)
