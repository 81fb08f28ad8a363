"""Reliability diagrams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Optional

from ..method import GRAY
from .calibration import calibrated_tests, measured_on
from .drawing import add_legend, finish, looks_of, new_figure
from .rows import by_method, runs_of_most_shots
from .sections import Result


if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = 10  # pictures of a bin that is drawn; the accuracy of fewer says little
TITLES = {"before": "probabilities as they are", "after": "at the temperature of validation pictures"}


def plot_reliability(results: Sequence[Result]) -> Optional[Figure]:
    """
    Plot accuracy by confidence in few-shot at the most shots, before and after the temperature. A perfectly calibrated
    method lies on the diagonal. Below it, probabilities are too high. The pictures of all seeds share the bins.

    Args:
        results: results of one data set and model.

    Returns:
        The figure; None if no calibration was measured.
    """
    runs = runs_of_most_shots(results, "few-shot")
    if not (tests := calibrated_tests(runs)):
        return None
    measured = {
        name: [of_run for member in members if (of_run := measured_on(member, tests[0]))]
        for name, members in by_method(runs).items()
    }
    moments = [moment for moment in TITLES if any(of_run[moment] for found in measured.values() for of_run in found)]
    figure = new_figure(5.5 * len(moments), 5.7)
    for axes, moment in zip(figure.subplots(1, len(moments), squeeze=False)[0], moments):
        axes.plot([0, 100], [0, 100], color=GRAY, linestyle=":", linewidth=1, label="calibrated")
        for name, look in looks_of(measured).items():
            points = _points(of_run[moment] for of_run in measured[name] if of_run[moment])
            if points:
                look = {**look, "linestyle": "-" if look.get("linestyle") == "none" else look.get("linestyle", "-")}
                axes.plot(*zip(*points), label=name, **look)
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        finish(axes, TITLES[moment], f"confidence, % (bins of {LEAST} pictures or more)", "accuracy, %")
    add_legend(figure, columns=3 * len(moments))
    return figure


def _points(reliabilities: Iterable[dict[str, Any]]) -> list[tuple[float, float]]:
    """Confidence and accuracy of each bin in percent, over the pictures of all runs."""
    bins = zip(*(zip(r["pictures"], r["confidence"], r["accuracy"]) for r in reliabilities))
    points = []
    for parts in bins:
        number = sum(n for n, _, _ in parts)
        if number >= LEAST:
            sums = [sum(n * part[i] for n, *part in parts if n) for i in (0, 1)]
            points.append((100 * sums[0] / number, 100 * sums[1] / number))
    return points
