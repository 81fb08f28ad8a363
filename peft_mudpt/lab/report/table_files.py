"""Writes the accuracies of a report as files for other programs: a CSV file, and tables for LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ...optional import require
from ..terminal import printable
from .compared import Compared, compared
from .detection import MAIN_TITLES
from .sections import Result, parts_of_models, sections
from .tables import mean_rows, rows_by_title


FOR_LATEX = ("pandas", "jinja2")  # the packages that write a table; pandas styles it by Jinja
CSV_TABLE, LATEX_TABLES = "accuracies.csv", "accuracies.tex"
CSV_COLUMNS = ("dataset", "model", "task", "table", "method", "column", "seed", "percent")
LATEX_HEAD = (
    "% Needs \\usepackage{booktabs}. Bold: the best mean of a column. The first row is the best in the last column.\n"
)


def csv_table(results: Sequence[Result]) -> str:
    """
    Write every number of the tables of accuracy, one line for each row, column and seed of a table.

    Args:
        results: as from `read_results`.

    Returns:
        CSV with a header. A value that does not exist is empty: the method cannot name the classes.
    """
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(CSV_COLUMNS)
    for part in sections(results):
        for title, (rows, _) in rows_by_title(part).items():
            for name, row in rows.items():
                for column, runs in row.items():
                    place = part.dataset, part.model, part.task, title, name, column
                    lines.writerows([*place, seed, value] for seed, value in runs.items())
    return file.getvalue()


def latex_tables(results: Sequence[Result]) -> str:
    """
    Write the tables of accuracy, those of means over data sets first.

    Args:
        results: as from `read_results`.

    Returns:
        LaTeX that needs the package booktabs.

    Raises:
        ImportError: if pandas or Jinja is missing.
    """
    require("A table for LaTeX", "report", *FOR_LATEX)
    parts, tables = sections(results), []
    for of_model, suffix, task in parts_of_models(parts):
        for title, (rows, _) in mean_rows([part.results for part in of_model]).items():
            tables.append((f"{title}{suffix}", MAIN_TITLES[task], compared(rows)))
    for part in parts:
        for title, (rows, _) in rows_by_title(part).items():
            tables.append((f"{part.title}. {title}", MAIN_TITLES[part.task], compared(rows)))
    return LATEX_HEAD + "".join(
        f"\n% {printable(title)}: {measure} in %, {table.over}\n{_latex(table)}" for title, measure, table in tables
    )


def _latex(table: Compared) -> str:
    from pandas import DataFrame

    axes = dict(index=[name for name, _ in table.lines], columns=table.columns)
    cells = DataFrame([[cell.text for cell in line] for _, line in table.lines], **axes)
    bold = DataFrame([["textbf:--rwrap;" * cell.is_bold for cell in line] for _, line in table.lines], **axes)
    styled = cells.style.apply(lambda _: bold, axis=None)
    styled = styled.format(escape="latex").format_index(escape="latex").format_index(escape="latex", axis="columns")
    return styled.to_latex(hrules=True, column_format="l" + "r" * len(table.columns))
