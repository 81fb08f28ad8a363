"""Paired differences: a row of a table minus a reference row, for each seed, on the same pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Optional

from ..intervals import CONFIDENCE
from .rows import Rows, Runs, is_untrained, mean_and_deviation, row_name
from .sections import Result


def check_reference(results: Iterable[Result], reference: str) -> None:
    """
    Check that there are results to which others can be compared.

    Args:
        results: results of any runs.
        reference: name of a row (see `rows.row_name`).

    Raises:
        ValueError: if no result belongs to the row.
    """
    names = list(dict.fromkeys(row_name(result) for result in results if _is_test(result)))
    if reference not in names:
        raise ValueError(f"--paired {reference!r} is not a row of the tables; the rows are {', '.join(names)}.")


def on_the_same_pictures(results: Sequence[Result], reference: str) -> tuple[list[Result], list[Result]]:
    """
    Select the results that can be compared with a reference row.

    Args:
        results: results of one model on one data set.
        reference: name of a row (see `rows.row_name`).

    Returns:
        The results with the same pictures as the reference's run of the same protocol, seed and number of shots, among
        them the reference's own; and those with other pictures. Results without such a run are in neither list.
    """
    tests = [result for result in results if _is_test(result)]
    references = [result for result in tests if row_name(result) == reference]
    same, other = [], []
    for result in tests:
        partners = [partner for partner in references if _has_same_setting(result, partner)]
        if partners:
            (same if any(_has_same_pictures(result, partner) for partner in partners) else other).append(result)
    return same, other


def _is_test(result: Result) -> bool:
    return result["arguments"]["evaluate_on"] == "test"


def _learn_both(one: Result, other: Result) -> bool:
    return not is_untrained(row_name(one)) and not is_untrained(row_name(other))


def _has_same_setting(one: Result, other: Result) -> bool:
    names = ["protocol", "seed", *(["shots"] if _learn_both(one, other) else [])]
    return all(one["arguments"][name] == other["arguments"][name] for name in names)


def _has_same_pictures(one: Result, other: Result) -> bool:
    """Compare the training pictures, unless a method is not trained, and those of the test sets that both have."""
    if _learn_both(one, other) and sorted(one["items"]["train"]) != sorted(other["items"]["train"]):
        return False
    tests = [(one["metrics"][name], other["metrics"].get(name)) for name in one["metrics"]]
    return all(_tested_on(ours, theirs) == _tested_on(theirs, ours) for ours, theirs in tests if ours and theirs)


def _tested_on(metrics: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """The test pictures of each class; only their number if `metrics` or `others` are of an earlier version."""
    if "predictions" in metrics and "predictions" in others:
        return {name: sorted(items) for name, items in metrics["predictions"].items()}
    if "pictures" in metrics:  # of detection, which has one test set
        return {"pictures": metrics["pictures"]}
    return {name: seen for name, (_, seen) in metrics["classes"].items()}


def differences(rows: Rows, reference: str) -> Rows:
    """
    Subtract a reference row from the other rows.

    Args:
        rows: rows from a function of `report.rows`, such as `few_shot_rows`.
        reference: name of the reference row.

    Returns:
        The differences in percentage points for the columns and seeds that both rows have; empty if there are none.
    """
    found: Rows = {}
    for name, row in rows.items():
        for column, runs in row.items():
            base = rows.get(reference, {}).get(column, {})
            both = {seed: _minus(value, base[seed]) for seed, value in runs.items() if seed in base}
            if both and name != reference:
                found.setdefault(name, {})[column] = both
    return found


def _minus(value: Optional[float], base: Optional[float]) -> Optional[float]:
    return None if value is None or base is None else value - base


def mean_and_interval(runs: Runs) -> Optional[tuple[float, Optional[float]]]:
    """
    Compute the mean over seeds, and its 95 % confidence interval by Student's t distribution.

    Args:
        runs: differences by seed.

    Returns:
        The mean, and half the length of the interval around it, which is None for a single seed. If no seed has a
        difference, None instead of the pair.
    """
    found = mean_and_deviation(runs)
    if found is None or found[1] is None:
        return found
    average, deviation = found
    number = sum(value is not None for value in runs.values())
    return average, t_quantile(number - 1) * deviation / math.sqrt(number)


def t_quantile(freedom: int) -> float:
    """
    Compute how many standard errors a confidence interval extends to each side.

    Args:
        freedom: degrees of freedom of Student's t distribution, at least 1.

    Returns:
        The t with a probability of `CONFIDENCE` that the absolute value of the variable is below it.
    """
    # With t = sqrt(freedom) * tan(angle), the density in the angle is proportional to cos(angle) ** (freedom - 1).
    low, high = 0.0, math.pi / 2
    whole = _cosine_integral(freedom - 1, high)
    for _ in range(60):  # halving the interval so often exhausts the precision of a float
        middle = (low + high) / 2
        below = _cosine_integral(freedom - 1, middle) < CONFIDENCE * whole
        low, high = (middle, high) if below else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _cosine_integral(power: int, angle: float) -> float:
    """The integral of cos(x) ** power from 0 to `angle`, by the reduction formula."""
    integral = math.sin(angle) if power % 2 else angle
    for k in range(2 + power % 2, power + 1, 2):
        integral = math.cos(angle) ** (k - 1) * math.sin(angle) / k + (k - 1) / k * integral
    return integral
