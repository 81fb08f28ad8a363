"""Tables and a plot of federated runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from ..report.drawing import ACCURACY, add_legend, finish, looks_of, new_figure, save
from ..report.escaping import plain
from ..report.markdown import accuracy_table, markdown_table
from ..report.rows import Rows
from ..storage import write_text


if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = dict[str, Any]  # the content of federation.json
REPORT, PLOT = "report.md", "federated.png"
ZERO_SHOT = "zero_shot"
LINES = {"federated": "-", "local": ":", "centralized": "--"}


def row_name(result: Result) -> str:
    """
    Name a row: the method and the setting.

    Args:
        result: a result of a comparison.

    Returns:
        The name.
    """
    return f"{result['arguments']['method']}, {result['arguments']['setting']}"


def accuracy_rows(results: Sequence[Result]) -> Rows:
    """
    Collect the accuracy of each row.

    Args:
        results: results of a comparison.

    Returns:
        The accuracies in percent by domain, with the mean of the domains last, and by seed.
    """
    rows: Rows = {}
    for result in results:
        seed = result["arguments"]["seed"]
        for name, accuracies in ((ZERO_SHOT, result["zero_shot"]), (row_name(result), result["accuracy"])):
            for domain, accuracy in {**accuracies, "mean": mean(accuracies.values())}.items():
                rows.setdefault(name, {}).setdefault(domain, {})[seed] = accuracy
    return rows


def cost_table(results: Sequence[Result]) -> str:
    """
    Format what each row cost: the parameters, the megabytes that all clients sent and received, and the seconds
    (medians over the seeds).

    Args:
        results: results of a comparison.

    Returns:
        The table, as Markdown.
    """
    members: dict[str, list[Result]] = {}
    for result in results:
        members.setdefault(row_name(result), []).append(result)
    lines = []
    for name, runs in members.items():
        rates = sorted({run["arguments"]["learning_rate"] for run in runs})
        numbers = [f"{runs[0]['trainable_parameters']:,}", f"{median(run['megabytes'] for run in runs):.2f}"]
        seconds = f"{median(run['seconds'] for run in runs):.0f}"
        lines.append([plain(name), *numbers, " / ".join(f"{rate:g}" for rate in rates), seconds])
    return markdown_table(["method", "trainable parameters", "exchanged, MB", "learning rate", "seconds"], lines)


def markdown(results: Sequence[Result]) -> str:
    """
    Format the tables of a comparison.

    Args:
        results: its results, at least one.

    Returns:
        Markdown, with a newline at its end.
    """
    first = results[0]["arguments"]
    about = (
        f"{first['num_rounds']} rounds of {first['local_steps']} steps, {len(results[0]['clients'])} clients, "
        f"{first['shots']} pictures per class and client. CLIP: {plain(first['model_name_or_path'])}."
    )
    return f"{about}\n\n{accuracy_table(accuracy_rows(results))}\n\n{cost_table(results)}\n"


def plot(results: Sequence[Result]) -> Figure:
    """
    Plot the mean accuracy over the domains by round, and, of federated runs, by megabytes exchanged.

    Args:
        results: results of a comparison.

    Returns:
        The figure.
    """
    figure = new_figure(12, 5.2)
    by_round, by_megabytes = figure.subplots(1, 2)
    curves = _curves(results)
    looks = looks_of(list(dict.fromkeys(method for method, _ in curves)))
    for (method, setting), points in curves.items():
        look = {**looks[method], "linestyle": LINES[setting], "label": f"{method}, {setting}"}
        by_round.plot(list(points), [mean(a for a, _ in each) for each in points.values()], **look)
        if setting == "federated":
            tested = [each for each in points.values() if each[0][1]]
            by_megabytes.plot([mean(m for _, m in each) for each in tested], _means(tested), **look)
    zero_shot = mean(result["zero_shot_mean"] for result in results)
    for axes in (by_round, by_megabytes):
        axes.axhline(zero_shot, color="black", linewidth=1, label=ZERO_SHOT)
    by_round.locator_params(axis="x", integer=True)
    finish(by_round, "Mean of the domains, by round", "round", ACCURACY)
    if by_megabytes.lines[1:]:
        by_megabytes.set_xscale("log")
    finish(by_megabytes, "Mean of the domains, by what was sent", "megabytes exchanged by all clients", ACCURACY)
    add_legend(figure, columns=5)
    return figure


def _means(points: list[list[tuple[float, float]]]) -> list[float]:
    return [mean(accuracy for accuracy, _ in each) for each in points]


def _curves(results: Sequence[Result]) -> dict[tuple[str, str], dict[int, list[tuple[float, float]]]]:
    """For each method and setting, by tested round, the mean accuracy and the megabytes so far of each seed."""
    curves: dict[tuple[str, str], dict[int, list[tuple[float, float]]]] = {}
    for result in results:
        points = curves.setdefault((result["arguments"]["method"], result["arguments"]["setting"]), {})
        exchanged = 0.0
        for each in result["rounds"]:
            exchanged += (each["bytes_up"] + each["bytes_down"]) / 1e6
            if each["accuracy"]:
                points.setdefault(each["number"], []).append((mean(each["accuracy"].values()), exchanged))
    return curves


def write_report(results: Sequence[Result], folder: Path) -> None:
    """
    Write the tables and the plot to a folder, in place of earlier ones.

    Args:
        results: results of a comparison.
        folder: the folder; it is created if needed.
    """
    save(plot(results), folder / PLOT)
    write_text(folder / REPORT, f"{markdown(results)}\n![Accuracy by round and by megabytes]({PLOT})\n")
