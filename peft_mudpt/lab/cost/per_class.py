"""Separates what a class costs from what a step costs without any: a line through the numbers of classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple, Optional

import numpy as np

from .cases import DEFAULT_ADAPTER, TRAINING
from .rows import Row


MS, MIB = 1e-3, 2**20
# The only public numbers of this kind that we know, as they are reported for MMRL: model, batch, way, and the cells.
YARDSTICK = "| ViT-B/16 on an RTX 3090 | training | 32 | MMRL | 247 | 1.08 | – | – | 16.8 | – |"
WORDS = (
    "Each line is fitted to the measurements at all numbers of classes by least squares, if there are two or more. "
    "**±** is the largest distance of a measurement from its line; it is zero for two, and large where a cost is no "
    "line."
)
WORDS_FOR_YARDSTICK = "**MMRL**: what is published for [MMRL](https://arxiv.org/abs/2503.08497), on other hardware."
TITLES = "| model | step | batch | way | fixed ms | ms per class | ± ms | fixed MiB | MiB per class | ± MiB |"


class Line(NamedTuple):
    """A cost as a function of the number of classes."""

    fixed: float
    per_class: float
    residual: float  # largest distance of a measurement from the line


def fitted(measured: Mapping[int, float]) -> Optional[Line]:
    """
    Fit a line by least squares.

    Args:
        measured: values by number of classes.

    Returns:
        The line; None for fewer than two numbers of classes.
    """
    if len(measured) < 2:
        return None
    classes, values = (np.array(each, dtype=float) for each in zip(*measured.items()))
    per_class, fixed = np.polyfit(classes, values, deg=1)
    return Line(fixed, per_class, np.abs(fixed + per_class * classes - values).max())


def per_class_parts(times: list[Row], memory: list[Row]) -> list[str]:
    """
    Format what a class costs.

    Args:
        times: the rows of `times` of `running.run`.
        memory: the rows of `memory` of `running.run`.

    Returns:
        The title, what the numbers mean, and a table, as Markdown; empty if nothing was measured at two numbers of
        classes.
    """
    of_time = _lines(times, lambda row: {way: median(turns) / MS for way, turns in row["seconds"].items()})
    of_memory = _lines(memory, lambda row: {way: peak / MIB for way, peak in row["bytes"].items()})
    lines = [
        f"| {name} | {task} | {batch} | {way} | {_cells(of_time.get(key))} | {_cells(of_memory.get(key))} |"
        for key in dict.fromkeys([*of_time, *of_memory])
        for name, task, batch, way in [key]
    ]
    if not lines:
        return []
    words = WORDS
    if any(task == TRAINING for _, task, *_ in [*of_time, *of_memory]):
        lines, words = [*lines, YARDSTICK], f"{words} {WORDS_FOR_YARDSTICK}"
    return ["### Cost per class", words, "\n".join([TITLES, "|---" * 10 + "|", *lines])]


def _lines(rows: list[Row], values: Callable[[Row], dict[str, float]]) -> dict[tuple, Line]:
    """The line of each way, by name of the model, task, batch and way."""
    measured: dict[tuple, dict[int, float]] = {}
    for row in rows:
        for way, value in values(row).items():
            key = name_of(row), row["task"], row["batch_size"], way
            measured.setdefault(key, {})[row["classes"]] = value
    return {key: line for key, points in measured.items() if (line := fitted(points)) is not None}


def _cells(line: Optional[Line]) -> str:
    return "– | – | –" if line is None else " | ".join(_number(each) for each in line)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{round(value, 4) + 0:.3g}"  # + 0: no "-0"


def name_of(row: Row) -> str:
    """
    Name the model of a row.

    Args:
        row: a row of `running.run` that has an adapter.

    Returns:
        The model and, unless it is the default, the adapter.
    """
    adapter = row.get("adapter", DEFAULT_ADAPTER)  # a detector has none
    return row["model"] if adapter == DEFAULT_ADAPTER else f"{row['model']}, {adapter}"
