"""Says how far the probabilities of methods can be trusted: tables of a report, and a section of a model card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Optional

from .escaping import plain
from .markdown import markdown_table
from .rows import by_method, mean_and_deviation, runs_by_test
from .sections import Result, Section


MEANING = (
    "Expected calibration error: the mean distance between confidence, the probability of the predicted class, and "
    "accuracy, over 20 bins of equal width. The temperature comes from validation pictures. By chance: the error that "
    "a perfectly calibrated classifier with these confidences would show on so few pictures."
)
SETS = "Sets of classes that hold the right one with a stated probability, on the test pictures:"


def measured_on(result: Result, test: str) -> Optional[dict[str, Any]]:
    """
    Find how far the probabilities of a run can be trusted.

    Args:
        result: the result of a run.
        test: name of a test set.

    Returns:
        The field `calibration` of the metrics of this test set; None if it was not measured.
    """
    return (result["metrics"].get(test) or {}).get("calibration")


def calibrated_tests(results: Iterable[Result]) -> list[str]:
    """
    List the test sets on which calibration was measured.

    Args:
        results: results of any runs.

    Returns:
        The names, in the order in which they first occur.
    """
    results = list(results)
    names = dict.fromkeys(name for result in results for name in result["metrics"])
    return [name for name in names if any(measured_on(result, name) for result in results)]


def calibration_tables(section: Section) -> dict[str, str]:
    """
    Make the tables of the calibration error and of sets of classes, one for each protocol, number of shots and test
    set.

    Args:
        section: the results of one model on one data set.

    Returns:
        The tables by title; an empty dict if no calibration was measured.
    """
    tables: dict[str, str] = {}
    for where, results, test in runs_by_test(section.results, calibrated_tests):
        tables[f"Calibration: {where}"] = _table(results, test, meaning="" if tables else f" {MEANING}")
    return tables


def calibration_section(result: Result) -> Optional[str]:
    """
    Write the section of a model card on calibration.

    Args:
        result: the result of a run.

    Returns:
        The section, as Markdown; None if calibration was not measured.
    """
    found = {name: of_test for name in result["metrics"] if (of_test := measured_on(result, name))}
    if not found:
        return None
    rows = []
    for name, of_test in found.items():
        zero_shot = ((result["zero_shot"] or {}).get(name) or {}).get("calibration")
        before, after = of_test["before"], of_test["after"]
        errors = (zero_shot and zero_shot["before"], before, after)
        by_chance = (after or before)["error_by_chance"]
        cells = ["not measured" if error is None else f"{error['error']:.1f} %" for error in errors]
        rows.append([plain(name), *cells, f"{by_chance:.1f} %"])
    header = ["test set", "zero-shot", "with the adapter", "with the adapter, calibrated", "by chance"]
    text = f"## Calibration\n\n{MEANING}\n\n{markdown_table(header, rows)}"
    if (stored := result.get("calibration")) is None:
        return f"{text}\n\nThe run had no validation pictures to calibrate on."
    sets = next(iter(found.values()))["sets"]
    if sets:
        rows = [[f"{100 * s['coverage']:.0f} %", f"{s['held']:.1f} %", f"{s['classes']:.2f}"] for s in sets]
        header = ["stated coverage", "sets that hold the right class", "classes in a set"]
        text += f"\n\n{SETS}\n\n{markdown_table(header, rows)}"
    lines = []
    if stored["temperature"] is not None:
        lines.append('classifier.top_k(["picture.jpg"])  # calibrated')
    if sets:
        lines.append(f'classifier.predict_sets(["picture.jpg"], coverage={sets[-1]["coverage"]})')
    number, code = sum(map(len, stored["scores"])), "\n".join(lines)
    limits = f"This holds for pictures like the {number:,} validation pictures of the run, and for no other classes."
    return f"{text}\n\n{limits}\n\n```python\n{code}\n```"


def _table(results: Sequence[Result], test: str, meaning: str) -> str:
    found = {
        name: [of_run for member in members if (of_run := measured_on(member, test))]
        for name, members in by_method(results).items()
    }
    coverages = sorted({sets["coverage"] for runs in found.values() for of_run in runs for sets in of_run["sets"]})
    header = ["method", "temperature", "error before, %", "error after, %", "by chance, %"]
    for coverage in coverages:
        header += [f"sets at {100 * coverage:.0f} %: right, %", "classes"]
    lines = [[plain(name), *_cells(runs, coverages)] for name, runs in found.items() if runs]
    seeds = max(map(len, found.values()))
    over = "One seed" if seeds == 1 else f"Mean ± standard deviation over {seeds} seeds"
    return f"{over}.{meaning}\n\n{markdown_table(header, lines)}"


def _cells(runs: Sequence[dict[str, Any]], coverages: Sequence[float]) -> list[str]:
    """The cells of a method, from what was measured in its runs."""
    after = [of_run["after"] or {} for of_run in runs]
    of_sets = [{sets["coverage"]: sets for sets in of_run["sets"]} for of_run in runs]
    cells = [
        _cell([of_run["temperature"] for of_run in runs], 2),
        _cell([of_run["before"]["error"] for of_run in runs]),
        _cell([found.get("error") for found in after]),
        _cell([(found or of_run["before"])["error_by_chance"] for found, of_run in zip(after, runs)]),
    ]
    for coverage in coverages:
        tested = [sets.get(coverage, {}) for sets in of_sets]
        cells += [_cell([sets.get("held") for sets in tested]), _cell([sets.get("classes") for sets in tested], 2)]
    return cells


def _cell(values: Sequence[Optional[float]], digits: int = 1) -> str:
    statistics = mean_and_deviation(dict(enumerate(values)))
    if statistics is None:
        return "–"
    average, deviation = statistics
    return f"{average:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")
