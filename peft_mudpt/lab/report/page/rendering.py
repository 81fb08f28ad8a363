"""Renders the page of results."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...._version import __version__
from ....optional import require
from ...method import CLASSIFICATION
from ...schema import FOLDER
from ...terminal import printable
from ..drawing import draw
from ..plots import ACCURACY_BY_SHOTS, BASE_TO_NEW, OVERVIEW
from ..sections import Result, task_of
from ..shots import counted
from ..tables import markdown_report
from .run import run_values


if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from matplotlib.figure import Figure

PAGE = "report.html"
BREAK = "\f"  # in no part of a page
FOR_PAGES = ("jinja2", "markdown_it")  # the packages that write one
# A browser shows the pictures and uses the style that are in the page, and nothing else, whatever names contain.
POLICY = "default-src 'none'; img-src data:; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"


def html_page(
    results: Sequence[Result],
    figures: Mapping[str, Mapping[str, Figure]],
    paired: Sequence[str] = (),
    published: str = "",
    with_pictures: bool = True,
) -> str:
    """
    Render results as a page.

    The page of a single run of classification shows its classes, confusions, mistakes, probabilities and training
    pictures. The page of other results holds the tables and plots of the report.

    Args:
        results: as from `read_results`.
        figures: figures by file name, by the title of their section (see `plots.plot_all`).
        paired: names of rows to which the others are compared (see `tables.markdown_report`).
        published: Markdown to append to the tables.
        with_pictures: False to name the pictures of a run, and to show none.

    Returns:
        The page, as HTML. Names are shown as text, even if they contain markup.

    Raises:
        ImportError: if Jinja or markdown-it is missing.
        ValueError: see `tables.markdown_report`.
    """
    environment = _environment()
    values = {**_style_values(environment), "version": __version__}
    if len(results) == 1 and task_of(results) == CLASSIFICATION:
        run = run_values(results[0], with_pictures)
        report = markdown_report(results, {}, paired=paired, tables_only=True) + published
        values |= {"title": run["title"], "run": run, "report": _as_html(environment, report, [])}
        return environment.get_template("run.html").render(values)
    shown = {title: _not_repeated(plots) for title, plots in figures.items()}
    names = {title: list(plots) for title, plots in shown.items()}
    report = markdown_report(results, names, paired=paired) + published
    values |= {
        "title": f"Results of {counted(len(results), 'run')}",
        "folders": [result[FOLDER] for result in results],
        "shows_single_runs": task_of(results) == CLASSIFICATION,
        "report": _as_html(environment, report, [figure for plots in shown.values() for figure in plots.values()]),
    }
    return environment.get_template("tables.html").render(values)


def _not_repeated(plots: Mapping[str, Figure]) -> dict[str, Figure]:
    """The plots of a section without the overview, if that only repeats others."""
    repeats = {ACCURACY_BY_SHOTS, BASE_TO_NEW} & plots.keys()
    return {name: figure for name, figure in plots.items() if name != OVERVIEW or not repeats}


def _environment() -> Environment:
    require("A page", "report", *FOR_PAGES)

    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "printable": printable,
        # without <bdi>, a name that is written from right to left would turn the words beside it
        "name": lambda text: Markup("<bdi>{}</bdi>").format(printable(text)),
        "number": "{:,}".format,
        "percent": "{:.1f} %".format,
        "place": "{:.2f}".format,  # in a drawing
    }
    return environment


def _style_values(environment: Environment) -> dict[str, Markup]:
    """The style, and the policy that allows it."""
    from markupsafe import Markup

    style, _, _ = environment.loader.get_source(environment, "style.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return {"style": Markup(style), "policy": Markup(POLICY.format(digest))}


def _as_html(environment: Environment, report: str, figures: Sequence[Figure]) -> Markup:
    """A Markdown report as HTML, with the figures in place of its images."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    parts = environment.get_template("parts.html").module
    opening, closing = parts.table("Table", caller=lambda: BREAK).split(BREAK)
    markdown.add_render_rule("table_open", lambda *_: opening)
    markdown.add_render_rule("table_close", lambda *_: closing)
    tokens = markdown.parse(report)
    images = [part for token in tokens for part in token.children or () if part.type == "image"]
    for image, figure in zip(images, figures, strict=True):
        words = image.content.removesuffix(".png").replace("_", " ")
        image.children[0].content = f"Plot: {words}. The tables hold its numbers."
        image.attrSet("src", _address(figure))
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))


def _address(figure: Figure) -> str:
    """The address that holds a figure."""
    file = io.BytesIO()
    draw(figure, file, "svg")
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
