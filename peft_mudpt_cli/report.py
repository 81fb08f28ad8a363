"""`peft-mudpt report`: prints tables of results, and writes a report."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from .parser import parse_and_run, plain_parser


DESCRIPTION = (
    "Report the results in a folder of experiments: print tables, and write a Markdown report with plots, and its "
    "accuracies as CSV and LaTeX."
)
FIGURE_FORMATS = ("pdf", "svg")
EXAMPLES = """\
examples:
  %(prog)s outputs/lab                                       writes outputs/lab/report/report.md and its plots
  %(prog)s outputs/my_pictures --html                        also writes outputs/my_pictures/report/report.html
  %(prog)s outputs/lab --picture docs/overview.png --published
  %(prog)s outputs/lab --paired ivlp --paired mudpt --figure_format pdf
"""


def make_parser() -> ArgumentParser:
    """
    Make the parser of the flags.

    Returns:
        The parser.
    """
    parser = plain_parser(DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "results_dir", type=Path, metavar="RESULTS_DIR", help="A folder that holds result.json files at any depth."
    )
    parser.add_argument(
        "--output_dir", type=Path, metavar="FOLDER", help="Folder for report.md. Default: RESULTS_DIR/report."
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="PNG file for a copy of the overview plot. One data set only."
    )
    parser.add_argument(
        "--paired",
        action="append",
        default=[],
        metavar="METHOD",
        help="Add tables of the differences between this row and the others, with confidence intervals over seeds. "
        "Name the row as the tables do. May be given several times.",
    )
    parser.add_argument(
        "--html",
        action="store_true",
        help="Also write report.html, one file to open in a browser, without a network. Of a single run it shows the "
        "accuracy of each class, the classes that are confused, the pictures that it got wrong, how far probabilities "
        "can be trusted, and the training pictures; of several runs the tables and plots.",
    )
    parser.add_argument(
        "--no_pictures", action="store_true", help="Name the pictures on the page, and show none of them (--html)."
    )
    parser.add_argument(
        "--figure_format",
        choices=FIGURE_FORMATS,
        help="Also write each plot in a format that can be enlarged, for a paper. report.md shows the PNG files.",
    )
    parser.add_argument("--published", action="store_true", help="Add the results that others published for ViT-B/16.")
    parser.add_argument("--brief", action="store_true", help="Print accuracies only; report.md holds everything.")
    parser.add_argument(
        "--method_comparison",
        type=Path,
        metavar="FOLDER",
        help="Also write a JSON file for each adapter that was tested on base and new classes, in the layout of the "
        "results in PEFT's method_comparison.",
    )
    return parser


def main() -> None:
    """Report as the flags of this process say (see `peft_mudpt.lab.report`)."""
    parse_and_run(make_parser(), run)


def run(arguments: Namespace) -> None:
    """
    Report as flags say.

    Args:
        arguments: what `make_parser` has parsed.

    Raises:
        ImportError: if a package of the extra `report` is missing. Nothing is printed then.
        ValueError: if a flag, or what it names, cannot be used.
    """
    from peft_mudpt.lab.report.drawing import FOR_PLOTS, save
    from peft_mudpt.lab.report.method_comparison import write_method_comparison
    from peft_mudpt.lab.report.page.rendering import FOR_PAGES, PAGE, html_page
    from peft_mudpt.lab.report.panels import plot_report
    from peft_mudpt.lab.report.plots import OVERVIEW
    from peft_mudpt.lab.report.published import published_report
    from peft_mudpt.lab.report.sections import sections
    from peft_mudpt.lab.report.single_run import single_run_blocks
    from peft_mudpt.lab.report.table_files import FOR_LATEX
    from peft_mudpt.lab.report.tables import markdown_report
    from peft_mudpt.lab.report.writing import REPORT, write_report
    from peft_mudpt.lab.schema import read_results
    from peft_mudpt.optional import require

    require("A report", "report", *dict.fromkeys(FOR_PLOTS + FOR_LATEX + (FOR_PAGES if arguments.html else ())))
    if arguments.no_pictures and not arguments.html:
        raise ValueError("--no_pictures needs --html; give both.")
    published = f"\n{published_report()}" if arguments.published else ""
    results = read_results(arguments.results_dir)
    if arguments.method_comparison is not None:
        write_method_comparison(results, arguments.method_comparison)
    parts = sections(results)
    # who asks for the page of a run wants to read what it has reached; report.md holds the tables to compare runs
    reached = single_run_blocks(results) if arguments.html and not (published or arguments.paired) else []
    if reached:
        print("\n\n".join(reached))
    else:
        print(markdown_report(results, {}, arguments.brief, arguments.paired) + published, end="")
    figures = plot_report(parts)
    if arguments.picture and (len(parts) > 1 or OVERVIEW not in figures[parts[0].title]):
        found = ", ".join(part.title for part in parts)
        raise ValueError(
            f"--picture shows few-shot or base-to-new results of one data set and one model; found: {found}."
        )
    page, with_pictures = None, not arguments.no_pictures
    if arguments.html:
        page = html_page(results, figures, arguments.paired, published, with_pictures)
    folder = arguments.output_dir or arguments.results_dir / "report"
    write_report(results, figures, folder, published, arguments.paired, page, arguments.figure_format)
    if reached:
        print(f"\n{folder / REPORT} holds its cost, and the tables to compare it with other runs.")
    if arguments.html:
        print(f"\nOpen {folder / PAGE} in a browser.")
    if arguments.picture:
        save(figures[parts[0].title][OVERVIEW], arguments.picture)
