"""Rows of numbers as the cells of a table that compares methods, in whatever format it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import NamedTuple, Optional

from .paired import mean_and_interval
from .rows import Column, Rows, Runs, columns_of, is_untrained, mean_and_deviation


Statistics = Optional[tuple[float, Optional[float]]]  # a mean over seeds, and how far it may be off
Means = dict[tuple[str, Column], float]  # by name of the row, and column


class Cell(NamedTuple):
    """What a table shows for a row and a column."""

    text: str
    is_bold: bool = False


class Compared(NamedTuple):
    """
    The cells of a table that compares methods.

    Args:
        over: the seeds over which its means are, in words.
        columns: the names of the columns.
        lines: the title and the cells of each row.
    """

    over: str
    columns: list[str]
    lines: list[tuple[str, list[Cell]]]


def compared(rows: Rows) -> Compared:
    """
    Compare rows by their means over seeds. The row with the best mean in the last column stands first, and the best
    mean of each column is bold.

    If a row has fewer seeds than the whole table, its title says so, except for an untrained method, which does not
    depend on seeds.

    Args:
        rows: rows from a function of `report.rows`, such as `few_shot_rows`.

    Returns:
        The cells, as mean ± standard deviation.
    """
    best: dict[Column, float] = {}
    for (_, column), value in _as_printed(rows, mean_and_deviation).items():
        best[column] = max(value, best.get(column, value))

    def cell(column: Column, average: float, deviation: Optional[float]) -> Cell:
        text = f"{average:.1f}" if deviation is None else f"{average:.1f} ± {deviation:.1f}"
        return Cell(text, round(average, 1) == best[column])  # as printed, for ties

    return _compared(rows, mean_and_deviation, cell)


def compared_differences(rows: Rows) -> Compared:
    """
    Compare rows of differences to a reference. The row with the best mean in the last column stands first.

    Args:
        rows: rows of `paired.differences`.

    Returns:
        The cells, as mean [95 % confidence interval]; bold if the interval excludes 0.
    """

    def cell(column: Column, average: float, half: Optional[float]) -> Cell:
        if half is None:
            return Cell(f"{average:+.1f}")
        return Cell(f"{average:+.1f} [{average - half:+.1f}, {average + half:+.1f}]", abs(average) > half)

    return _compared(rows, mean_and_interval, cell)


def _as_printed(rows: Rows, statistic: Callable[[Runs], Statistics]) -> Means:
    found = {(name, column): statistic(runs) for name, row in rows.items() for column, runs in row.items()}
    return {key: round(values[0], 1) for key, values in found.items() if values}


def _compared(
    rows: Rows, statistic: Callable[[Runs], Statistics], cell: Callable[[Column, float, Optional[float]], Cell]
) -> Compared:
    seeds = {seed for row in rows.values() for runs in row.values() for seed in runs}

    def cell_of(name: str, column: Column) -> Cell:
        if column not in rows[name]:
            return Cell("")
        values = statistic(rows[name][column])
        return Cell("–") if values is None else cell(column, *values)

    def title(name: str) -> str:
        counts = sorted({len(runs) for runs in rows[name].values()})
        if is_untrained(name) or counts == [len(seeds)]:
            return name
        return f"{name} ({' to '.join(map(str, counts[:1] + counts[1:][-1:]))} of {len(seeds)} seeds)"

    columns = columns_of(rows)
    over = "one seed" if len(seeds) == 1 else f"mean ± standard deviation over {len(seeds)} seeds"
    ordered = _best_first(rows, columns, _as_printed(rows, statistic))
    lines = [(title(name), [cell_of(name, column) for column in columns]) for name in ordered]
    return Compared(over, [str(column) for column in columns], lines)


def _best_first(rows: Rows, columns: list[Column], means: Mapping[tuple[str, Column], float]) -> list[str]:
    """
    The names of the rows, that with the highest mean of the last column first. Rows that are equal there, or have no
    value, are ordered by the column before, and then stay in their order.
    """

    def merit(name: str) -> list[float]:
        return [means.get((name, column), -inf) for column in reversed(columns)]

    return sorted(rows, key=merit, reverse=True)  # a reversed sort keeps equal elements in their order
