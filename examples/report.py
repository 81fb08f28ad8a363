"""Report the results in a folder of experiments: print tables, and write a Markdown report with plots.

python examples/report.py outputs/lab                       # writes outputs/lab/report/report.md and its plots
python examples/report.py outputs/lab --picture docs/overview.png --published
"""

import argparse
import re
from pathlib import Path


def parse() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results_dir", type=Path, metavar="RESULTS_DIR", help="A folder that holds result.json files at any depth."
    )
    parser.add_argument("--output_dir", type=Path, help="Folder for report.md. Default: RESULTS_DIR/report.")
    parser.add_argument("--picture", type=Path, help="PNG file for a copy of the overview plot. One data set only.")
    parser.add_argument("--published", action="store_true", help="Add the results that others published for ViT-B/16.")
    parser.add_argument("--brief", action="store_true", help="Print accuracies only; report.md holds everything.")
    return parser, parser.parse_args()


def main() -> None:
    parser, arguments = parse()

    from peft_mudpt.lab.report.plots import OVERVIEW, plot_all, save
    from peft_mudpt.lab.report.published import published_report
    from peft_mudpt.lab.report.rows import sections
    from peft_mudpt.lab.report.tables import markdown_report
    from peft_mudpt.lab.schema import read_results

    folder = arguments.output_dir or arguments.results_dir / "report"
    published = f"\n{published_report()}" if arguments.published else ""
    try:
        results = read_results(arguments.results_dir)
        parts = sections(results)
        print(markdown_report(results, pictures={}, accuracy_only=arguments.brief) + published, end="")
        figures = {part.title: plot_all(part.results) for part in parts}
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    if arguments.picture and (len(parts) > 1 or OVERVIEW not in figures[parts[0].title]):
        found = ", ".join(part.title for part in parts)
        parser.error(f"--picture shows few-shot or base-to-new results of one data set and one model; found: {found}.")
    if folder.exists() and not folder.is_dir():
        parser.error(f"{folder} is a file; give another --output_dir.")

    # if there are several sections, each has a folder for its plots
    places = {part.title: re.sub(r"[^\w-]+", "-", part.title) + "/" if len(parts) > 1 else "" for part in parts}
    pictures = {title: [places[title] + name for name in plots] for title, plots in figures.items()}
    for title, plots in figures.items():
        for name, figure in plots.items():
            save(figure, folder / (places[title] + name))
    if arguments.picture:
        save(figures[parts[0].title][OVERVIEW], arguments.picture)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(markdown_report(results, pictures) + published, encoding="utf-8")


if __name__ == "__main__":
    main()
