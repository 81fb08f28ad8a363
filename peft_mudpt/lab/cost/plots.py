"""Plots the measurements of the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .cases import OURS, PADDED, PLAIN, TASKS
from .per_class import name_of
from .rows import Row
from .tables import Values, last_rows, median_seconds, peak_bytes


def plot(result: dict[str, Any], file: Path) -> None:
    """
    Plot times and memory by number of classes, relative to the way "plain", with logarithmic axes. The plot shows the
    last model and adapter at the smallest batch size.

    Args:
        result: the measurements, as from `running.run`.
        file: PNG file to write; its folder is created if needed.

    Raises:
        ValueError: if neither times nor memory were measured.
    """
    from matplotlib.figure import Figure

    panels: list[tuple[str, list[Row], Values]] = [
        (task, [row for row in result["times"] if row["task"] == task], median_seconds) for task in TASKS
    ]
    panels.append(("memory", result["memory"], peak_bytes))
    panels = [panel for panel in panels if panel[1]]  # those with measurements
    if not panels:
        raise ValueError(f"Nothing to plot in {file}: no time of a step and no memory was measured.")
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, (name, rows, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        shown = last_rows([row for row in rows if PLAIN in values(row)])
        for way, color in ((PADDED, "#999999"), (OURS, "#D55E00")):
            points = [(row["classes"], values(row)[way] / values(row)[PLAIN]) for row in shown if way in values(row)]
            axes.plot(*zip(*points) if points else ([], []), marker="o", color=color, label=way)
        axes.axhline(1, color="black", linestyle=":", label=PLAIN)
        axes.set(
            title=f"{name}, {name_of(shown[0])}, batch {shown[0]['batch_size']}",
            xlabel="classes",
            ylabel="plain CLIP = 1",
        )
        axes.set(xscale="log", yscale="log")
        axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
