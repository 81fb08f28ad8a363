"""Turns the results of experiments into rows of numbers, which tables print and plots show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from statistics import mean, stdev
from typing import Any, Optional, Union

from ..adversarial import AdversarialOptions
from ..methods import methods_of_all_tasks
from ..protocols import PROTOCOLS
from ..schema import FOLDER
from ..training.anchors import Anchors
from .escaping import plain
from .sections import Result, main_measure
from .shots import shots_in_words


Column = Union[int, float, str]
Runs = dict[int, Optional[float]]  # accuracy in percent, by seed; None if the method cannot name the classes
Rows = dict[str, dict[Column, Runs]]  # by row name, in the order of `methods_of_all_tasks`

# flags that stand in the name of a row: of a method without steps the first, of the others all
NAMED_WITHOUT_STEPS = ("image_size",)
NAMED = (
    *NAMED_WITHOUT_STEPS,
    "prompt_initialization",
    *(field.name for field in fields(Anchors)),
    "averaging_mean",
    "averaging_std",
    *(field.name for field in fields(AdversarialOptions) if field.name != "adversarial_bank"),
)
TOLD_APART = (
    "method",
    "method_kwargs",
    "shots",
    "seed",
    "optimizer",
    "learning_rate",
    "warmup",
    "protocol",
    "evaluate_on",
    *NAMED,
)
BASE_TO_NEW_COLUMNS = ("base", "new", "harmonic mean")


def runs_of(results: Iterable[Result], protocol: str, evaluated_on: str = "test") -> dict[int, list[Result]]:
    """
    Select the results of a protocol, and group them by the number of shots.

    Args:
        results: results of any runs.
        protocol: name of the protocol.
        evaluated_on: the pictures on which the runs were evaluated, "test" or "validation".

    Returns:
        The results by number of shots, fewest first.
    """
    by_shots: dict[int, list[Result]] = {}
    for result in results:
        arguments = result["arguments"]
        if (arguments["protocol"], arguments["evaluate_on"]) == (protocol, evaluated_on):
            by_shots.setdefault(arguments["shots"], []).append(result)
    return dict(sorted(by_shots.items()))


def runs_of_most_shots(results: Iterable[Result], protocol: str) -> list[Result]:
    """
    Select the results of a protocol on test pictures with the most shots.

    Args:
        results: results of any runs.
        protocol: name of the protocol.

    Returns:
        The results; empty if there are none.
    """
    by_shots = runs_of(results, protocol)
    return by_shots[max(by_shots)] if by_shots else []


def runs_by_test(
    results: Iterable[Result], tests_of: Callable[[Sequence[Result]], list[str]]
) -> Iterator[tuple[str, list[Result], str]]:
    """
    Group results by protocol, number of shots and test set, each group a table.

    Args:
        results: results of any runs.
        tests_of: lists the test sets of a group that have a table.

    Yields:
        What the title of the table says of the group, such as "base-to-new, 16 shots, new", the results, and the name
        of the test set.
    """
    results = list(results)
    for protocol in PROTOCOLS:
        for group in runs_of(results, protocol).values():
            names = tests_of(group)
            for test in names:
                suffix = "" if len(names) == 1 else f", {plain(test)}"
                yield f"{protocol}, {shots_in_words(group)}{suffix}", group, test


def row_name(result: Result) -> str:
    """
    Name the table row to which a result belongs.

    Args:
        result: the result of a run.

    Returns:
        The method name, followed by the method's options, by the optimizer if it is trained by steps, by the flags of
        `NAMED` (of `NAMED_WITHOUT_STEPS`, if it is not) if the run set them, and by the constant warmup.
    """
    arguments, options = result["arguments"], [_method_options(result)]
    has_steps = result["optimizer"] is not None
    options += [arguments["optimizer"]] if has_steps else []
    given = {name: arguments.get(name) for name in (NAMED if has_steps else NAMED_WITHOUT_STEPS)}
    options += [
        name if value is True else f"{name} {value}"
        for name, value in given.items()
        if value is not None and value is not False
    ]
    options += ["constant warmup"] if has_steps and arguments.get("warmup") == "constant" else []
    return " ".join([result["method"], *(option for option in options if option is not None)])


def _method_options(result: Result) -> Optional[str]:
    """The method's options that differ from its defaults, as JSON; None if there are none."""
    stored, method = result["arguments"]["method_kwargs"], methods_of_all_tasks().get(result["method"])
    if stored is None or method is None or not method.options:
        return stored
    changed = {name: value for name, value in json.loads(stored).items() if value != method.options.get(name)}
    return json.dumps(changed, ensure_ascii=False) if changed else None


def is_untrained(name: str) -> bool:
    """
    Check whether a row belongs to a method that is not trained. Its numbers depend on neither shots nor seeds.

    Args:
        name: name of the row.

    Returns:
        True for such a method.
    """
    method = methods_of_all_tasks().get(name.partition(" ")[0])  # without the flags
    return method is not None and not method.is_trained


def by_method(results: Iterable[Result]) -> dict[str, list[Result]]:
    """
    Group results by table row.

    Args:
        results: results of any runs.

    Returns:
        The results by row name (see `row_name`), in the order of `methods_of_all_tasks`; unknown methods come last.
    """
    found: dict[str, list[Result]] = {}
    for result in sorted(results, key=_order):
        found.setdefault(row_name(result), []).append(result)
    return found


def _order(result: Result) -> tuple[int, str]:
    names, method = list(methods_of_all_tasks()), result["method"]
    return names.index(method) if method in names else len(names), row_name(result)


def rows_of(results: Iterable[Result], values: Callable[[Result], Mapping[Column, Optional[float]]]) -> Rows:
    """
    Collect numbers of results in rows.

    Args:
        results: results of any runs.
        values: the numbers of a result by column.

    Returns:
        The rows, in the order of `methods_of_all_tasks`.

    Raises:
        ValueError: if two results have the same row, column and seed.
    """
    rows: Rows = {}
    origin: dict[tuple, Result] = {}
    for name, members in by_method(results).items():
        for result in members:
            seed = result["arguments"]["seed"]
            for column, value in values(result).items():
                other = origin.setdefault((name, column, seed), result)
                if other is not result:
                    raise ValueError(_ambiguous(name, seed, other, result))
                rows.setdefault(name, {}).setdefault(column, {})[seed] = value
    return rows


def _ambiguous(name: str, seed: int, one: Result, other: Result) -> str:
    options = [result["arguments"] for result in (one, other)]
    differing = [key for key in {**options[0], **options[1]} if options[0].get(key) != options[1].get(key)]
    places = " and ".join(result[FOLDER] for result in (one, other) if FOLDER in result)
    return (
        f"Two results of {name} with seed {seed} belong to the same cell of a table{places and f': {places}'}. They "
        f"differ in {', '.join(differing) or 'no option'}. Move one of them out of the folder that is reported."
    )


def few_shot_rows(results: Sequence[Result]) -> Rows:
    """
    Collect the main measures of the few-shot protocol on test pictures by shots (see `main_measure`).

    An untrained method (zero-shot CLIP) that was run for one number of shots gets the same accuracy in every column.

    Args:
        results: results of one data set and model.

    Returns:
        Rows whose columns are numbers of shots.

    Raises:
        ValueError: if two results have the same row, column and seed.
    """
    by_shots = runs_of(results, "few-shot")
    runs = [result for members in by_shots.values() for result in members]
    rows = rows_of(runs, lambda result: {result["arguments"]["shots"]: main_measure(result)})
    columns = columns_of({name: row for name, row in rows.items() if not is_untrained(name)})
    for name, row in rows.items():
        if is_untrained(name) and len(row) == 1 and columns:
            rows[name] = dict.fromkeys(columns, *row.values())
    return rows


def mean_over_data_sets(rows_by_data_set: Sequence[Rows]) -> Rows:
    """
    Average rows over data sets.

    Args:
        rows_by_data_set: the rows of each data set.

    Returns:
        The mean for each row, column and seed that every data set has.
    """
    first, *others = rows_by_data_set
    means: Rows = {}
    for name, row in first.items():
        if not all(name in rows for rows in others):
            continue
        for column, runs in row.items():
            cells = [runs, *(rows[name].get(column, {}) for rows in others)]
            seeds = sorted(set.intersection(*map(set, cells)))
            if seeds:
                means.setdefault(name, {})[column] = {
                    seed: _mean_of_all([cell[seed] for cell in cells]) for seed in seeds
                }
    return means


def _mean_of_all(values: Sequence[Optional[float]]) -> Optional[float]:
    return None if None in values else mean(values)


def base_to_new_rows(results: Iterable[Result]) -> Rows:
    """
    Collect base accuracy, new accuracy and the harmonic mean of both in each run.

    Args:
        results: results of the base-to-new protocol, all with the same number of shots.

    Returns:
        Rows with the columns `BASE_TO_NEW_COLUMNS`.

    Raises:
        ValueError: if two results have the same row, column and seed.
    """

    def values(result: Result) -> dict[Column, Optional[float]]:
        return {column: result["summary"].get(column.replace(" ", "_")) for column in BASE_TO_NEW_COLUMNS}

    return rows_of(results, values)


def transfer_rows(results: Iterable[Result]) -> Rows:
    """
    Collect the accuracies on the source data set and on each target data set, and the mean over the targets.

    Args:
        results: results of one protocol, cross-dataset or domain generalization, all with the same number of shots.

    Returns:
        Rows with the columns "source", the names of the targets, and "mean of targets".

    Raises:
        ValueError: if two results have the same row, column and seed.
    """

    def values(result: Result) -> dict[Column, Optional[float]]:
        targets = {name: metrics for name, metrics in result["metrics"].items() if name != result["dataset"]}
        accuracies = {name: metrics and metrics["accuracy"] for name, metrics in targets.items()}
        summary = result["summary"]
        return {"source": summary.get("source"), **accuracies, "mean of targets": summary.get("mean_of_targets")}

    return rows_of(results, values)


def learning_rate_rows(results: Iterable[Result]) -> Rows:
    """
    Collect the main measures on validation pictures by learning rate.

    Args:
        results: results of one protocol on validation pictures, all with the same number of shots.

    Returns:
        Rows whose columns are learning rates.

    Raises:
        ValueError: if two results have the same row, column and seed.
    """
    found = [r for r in results if r["learning_rate"] is not None and main_measure(r) is not None]
    return rows_of(found, lambda result: {result["learning_rate"]: main_measure(result)})


def best_learning_rate(accuracies: Mapping[float, float]) -> float:
    """
    Choose the learning rate with the highest validation accuracy; in a tie the lowest.

    Args:
        accuracies: accuracy by learning rate.

    Returns:
        The learning rate.
    """
    return max(sorted(accuracies), key=accuracies.__getitem__)


def asked_otherwise(results: Iterable[Result]) -> dict[str, list[Any]]:
    """
    Find the options in which the trained runs of a table differ, except the options in `TOLD_APART`, which determine
    the table, row, column and seed of a run.

    Args:
        results: the results in a table.

    Returns:
        The different values of each such option, by flag name.
    """
    asked = [result["arguments"] for result in results if result["learning_rate"] is not None]
    names = [name for name in (asked[0] if asked else ()) if name not in TOLD_APART]
    values = {name: list(dict.fromkeys(a[name] for a in asked if name in a)) for name in names}
    return {name: found for name, found in values.items() if len(found) > 1}


def columns_of(rows: Rows) -> list[Column]:
    """
    List the columns of all rows.

    Args:
        rows: rows of one table.

    Returns:
        The columns: numbers in ascending order, names in the order in which they first occur.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    return columns if any(isinstance(column, str) for column in columns) else sorted(columns)


def mean_and_deviation(runs: Runs) -> Optional[tuple[float, Optional[float]]]:
    """
    Compute the mean and the sample standard deviation over seeds.

    Args:
        runs: accuracies by seed.

    Returns:
        The pair of mean and deviation; the deviation is None if only one seed has an accuracy. If no seed has one,
        None instead of the pair.
    """
    values = [value for value in runs.values() if value is not None]
    if not values:
        return None
    return mean(values), stdev(values) if len(values) > 1 else None
