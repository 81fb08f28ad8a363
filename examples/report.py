"""Report the results in a folder of experiments: print tables, and write a Markdown report with plots.

python examples/report.py outputs/lab                       # writes outputs/lab/report/report.md and its plots
python examples/report.py outputs/lab --picture docs/overview.png --published
python examples/report.py outputs/lab --paired ivlp --paired mudpt
"""

import argparse
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results_dir", type=Path, metavar="RESULTS_DIR", help="A folder that holds result.json files at any depth."
    )
    parser.add_argument("--output_dir", type=Path, help="Folder for report.md. Default: RESULTS_DIR/report.")
    parser.add_argument("--picture", type=Path, help="PNG file for a copy of the overview plot. One data set only.")
    parser.add_argument(
        "--paired",
        action="append",
        default=[],
        metavar="METHOD",
        help="Add tables of the differences between this row and the others, with confidence intervals over seeds. "
        "Name the row as the tables do. May be given several times.",
    )
    parser.add_argument("--published", action="store_true", help="Add the results that others published for ViT-B/16.")
    parser.add_argument("--brief", action="store_true", help="Print accuracies only; report.md holds everything.")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()

    from peft_mudpt.lab.report.drawing import save
    from peft_mudpt.lab.report.plots import OVERVIEW, plot_all
    from peft_mudpt.lab.report.published import published_report
    from peft_mudpt.lab.report.sections import sections
    from peft_mudpt.lab.report.tables import markdown_report
    from peft_mudpt.lab.report.writing import write_report
    from peft_mudpt.lab.schema import read_results

    published = f"\n{published_report()}" if arguments.published else ""
    results = read_results(arguments.results_dir)
    parts = sections(results)
    report = markdown_report(results, {}, arguments.brief, arguments.paired)
    print(report + published, end="")
    figures = {part.title: plot_all(part.results) for part in parts}
    if arguments.picture and (len(parts) > 1 or OVERVIEW not in figures[parts[0].title]):
        found = ", ".join(part.title for part in parts)
        raise ValueError(
            f"--picture shows few-shot or base-to-new results of one data set and one model; found: {found}."
        )
    write_report(
        results, figures, arguments.output_dir or arguments.results_dir / "report", published, arguments.paired
    )
    if arguments.picture:
        save(figures[parts[0].title][OVERVIEW], arguments.picture)


if __name__ == "__main__":
    parse_arguments()  # so that --help and mistakes in flags do not wait for the import of torch

    from peft_mudpt.lab.terminal import one_line_errors

    with one_line_errors():
        main()
