"""Writes a report and its plots to a folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from ..storage import write_text
from .drawing import save
from .page.rendering import PAGE
from .sections import Result
from .table_files import CSV_TABLE, LATEX_TABLES, csv_table, latex_tables
from .tables import markdown_report


if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report.md"
MARK = "<!-- written by examples/report.py -->"  # the first line of a report, which may be overwritten


def write_report(
    results: Sequence[Result],
    figures: Mapping[str, Mapping[str, Figure]],
    folder: Path,
    published: str = "",
    paired: Sequence[str] = (),
    page: Optional[str] = None,
    figure_format: Optional[str] = None,
) -> None:
    """
    Write `report.md`, the plots that it shows, and its accuracies as CSV and LaTeX. An earlier report in the folder is
    replaced.

    Args:
        results: as from `read_results`.
        figures: figures by file name, by title (see `panels.plot_report`).
        folder: the folder to write to; it is created if needed.
        published: Markdown to append.
        paired: names of rows to which the others are compared (see `tables.markdown_report`).
        page: the content of `report.html` (see `page.rendering.html_page`); None: it is not written.
        figure_format: "pdf" or "svg", in which the plots are written too; None: in none.

    Raises:
        ImportError: if a package that writes LaTeX is missing.
        ValueError: if a file of the same name exists, but the folder holds no earlier report. No file is written then.
    """
    folders = picture_folders(figures)
    pictures = {title: [folders[title] + name for name in plots] for title, plots in figures.items()}
    text = f"{MARK}\n\n{markdown_report(results, pictures, paired=paired)}{published}"
    texts = {REPORT: text, CSV_TABLE: csv_table(results), LATEX_TABLES: latex_tables(results)}
    texts |= {} if page is None else {PAGE: page}
    plots = {
        folders[title] + name: figure for title, of_section in figures.items() for name, figure in of_section.items()
    }
    if figure_format is not None:
        plots |= {str(Path(name).with_suffix(f".{figure_format}")): figure for name, figure in plots.items()}
    _check_that_files_are_ours(folder, [*texts, *plots])
    for name, figure in plots.items():
        save(figure, folder / name)
    for name, content in texts.items():
        write_text(folder / name, content)


def picture_folders(titles: Iterable[str]) -> dict[str, str]:
    """
    Name a folder for the plots of each section of a report.

    Args:
        titles: titles of the sections, which differ.

    Returns:
        Names that end with "/", by title. They differ even where upper and lower case are the same. If there is one
        section, its plots stand beside the report, and the name is empty.
    """
    titles = list(titles)
    if len(titles) == 1:
        return {titles[0]: ""}
    folders: dict[str, str] = {}
    taken: set[str] = set()
    for title in titles:
        name = unique = re.sub(r"[^\w-]+", "-", title)[:100]
        number = 1
        while unique.casefold() in taken:
            number += 1
            unique = f"{name}-{number}"
        taken.add(unique.casefold())
        folders[title] = f"{unique}/"
    return folders


def _check_that_files_are_ours(folder: Path, names: Iterable[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give another --output_dir.")
    report = folder / REPORT
    if report.is_file() and report.read_bytes().startswith(MARK.encode()):
        return
    foreign = [name for name in names if (folder / name).exists()]
    if foreign:
        raise ValueError(
            f"{folder} already holds {', '.join(foreign[:5])}, which no report wrote. Give another "
            "--output_dir, or delete them."
        )
