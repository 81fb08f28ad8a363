"""What the plots share: the look of each row, the axes, the legend, and the file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from math import nan
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, BinaryIO, Union

from ..method import BLACK, BLUE, GRAY, GREEN, ORANGE, PINK, SKY
from ..methods import methods_of_all_tasks
from ..terminal import printable
from .rows import Column, mean_and_deviation


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOR_PLOTS = ("matplotlib",)  # the packages that draw one
ACCURACY = "accuracy, %"
LABEL_WIDTH = 28  # characters of a name in a legend
NO_MATH = {"parse_math": False}  # names are no formulas, even if they contain "$"

# For rows of unknown methods, and of methods whose record has no color.
OTHER_LOOKS = [
    dict(color=color, marker="h", linestyle="-.") for color in (GREEN, BLUE, PINK, ORANGE, BLACK, SKY, GRAY)
]


def looks_of(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """
    Choose the style of each row: its method's `look` if that has a color; the other rows cycle through `OTHER_LOOKS`.

    Args:
        names: names of the rows.

    Returns:
        Options of `matplotlib.axes.Axes.plot`, by name.
    """
    own = {name: method.look for name, method in methods_of_all_tasks().items() if "color" in method.look}
    others = [name for name in names if name not in own]
    cycled = {name: OTHER_LOOKS[i % len(OTHER_LOOKS)] for i, name in enumerate(others)}
    return {name: {"linewidth": 1.5, "markersize": 6, **own.get(name, cycled.get(name, {}))} for name in names}


def label_of(name: str) -> str:
    """
    Name a row as in running text.

    Args:
        name: name of the row (see `rows.row_name`).

    Returns:
        The title of its method, followed by the options of the row, in lines of some `LABEL_WIDTH` characters.
    """
    method, _, options = name.partition(" ")
    known = methods_of_all_tasks().get(method)
    return "\n".join(wrap(printable(f"{method if known is None else known.title} {options}"), LABEL_WIDTH))


def is_emphasized(name: str) -> bool:
    """
    Check whether a row belongs to the emphasized method (see `Method`).

    Args:
        name: name of the row.

    Returns:
        True for such a row.
    """
    method = methods_of_all_tasks().get(name)
    return method is not None and method.emphasized


def new_figure(width: float, height: float) -> Figure:
    """
    Make an empty figure.

    Args:
        width: in hundreds of pixels.
        height: in hundreds of pixels.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def finish(axes: Axes, title: str, x: str, y: str) -> None:
    """
    Name a panel and its axes, and give it a grid.

    Args:
        axes: the panel.
        title: its title, which may hold any characters.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.
    """
    axes.set_title(printable(title), **NO_MATH)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(figure: Figure, columns: int) -> None:
    """
    Add a legend below the panels. Each method has one entry, which shows the method's style in each kind of panel.

    Args:
        figure: the figure, whose panels are drawn.
        columns: number of columns of the legend, if they fit in the width of the figure; else it has fewer.
    """
    from matplotlib.legend_handler import HandlerTuple

    entries: dict[str, tuple] = {}
    for axes in figure.axes:
        for handle, text in zip(*axes.get_legend_handles_labels()):
            if not any(type(shown) is type(handle) for shown in entries.get(text, ())):
                entries[text] = (*entries.get(text, ()), handle)
    side_by_side = {tuple: HandlerTuple(ndivide=None)}
    layout = dict(loc="outside lower center", frameon=False, handlelength=3)
    labels = [label_of(name) for name in entries]
    for ncols in range(columns, 0, -1):
        legend = figure.legend([*entries.values()], labels, handler_map=side_by_side, ncols=ncols, **layout)
        for text in legend.get_texts():
            text.set(**NO_MATH)
        if ncols == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def points(row: dict[Column, dict], columns: Iterable[Column]) -> tuple[list[int], list[float], list[float]]:
    """
    Collect what is drawn of a row.

    Args:
        row: accuracies by column and seed.
        columns: columns of the plot.

    Returns:
        For the columns in which the row has an accuracy, their indices, the means over seeds, and the standard
        deviations (nan for one seed, so that no error bar is drawn).
    """
    found = [(i, mean_and_deviation(row.get(column, {}))) for i, column in enumerate(columns)]
    found = [(i, statistics) for i, statistics in found if statistics]
    return (
        [i for i, _ in found],
        [average for _, (average, _) in found],
        [nan if d is None else d for _, (_, d) in found],
    )


def draw(figure: Figure, file: Union[Path, BinaryIO], format: str) -> None:
    """
    Write a figure. The bytes depend on the figure alone.

    Args:
        figure: the figure.
        file: where to write.
        format: "png", "pdf" or "svg".
    """
    from matplotlib import rc_context

    undated = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}[format]
    with rc_context({"svg.hashsalt": "peft_mudpt"}):  # otherwise names of parts are random
        figure.savefig(file, format=format, metadata={undated: None})


def save(figure: Figure, path: Path) -> None:
    """
    Write a PNG, PDF or SVG file, by the end of its name. It appears only when it is complete.

    Args:
        figure: the figure.
        path: path of the file; its folder is created if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    draw(figure, partial, path.suffix[1:])
    os.replace(partial, path)
