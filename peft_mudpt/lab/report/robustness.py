"""Tables of the accuracy on attacked test pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mode
from typing import Any, Optional

from ..adversarial import levels, title_of
from ..schema import FOLDER
from .markdown import accuracy_table
from .rows import Column, Rows, rows_of, runs_by_test
from .sections import Result, Section


CLEAN = "clean"
KNOWLEDGE = (
    "All attacks are made for the tested model itself. `embedding_kl` is AdvPT's: it knows the image tower, but "
    "neither labels nor texts. The others know labels and prompts too."
)


def robust_rows(results: Iterable[Result], test: str) -> Rows:
    """
    Collect the accuracies on attacked pictures of a test set, and on the same pictures before the attack.

    Args:
        results: results of one protocol, all with the same number of shots.
        test: name of the test set.

    Returns:
        Rows with the columns "clean" and one per attack, such as "cross_entropy 4/255".

    Raises:
        ValueError: if two results have the same row, column and seed, or attack in different ways.
    """
    results = list(results)
    _check_attacks(results, test)

    def values(result: Result) -> dict[Column, Optional[float]]:
        found: dict[Column, Optional[float]] = {}
        for attacked in result["robustness"] or ():
            metrics = attacked["metrics"].get(test)
            found[CLEAN] = metrics and metrics["clean"]
            found[title_of(attacked)] = metrics and metrics["attacked"]
        return found

    return rows_of(results, values)


def _check_attacks(results: Iterable[Result], test: str) -> None:
    """Check that what stands in one column is comparable: an attack may differ in its seed only."""
    known: dict[str, tuple[dict[str, Any], Result]] = {}
    for result in results:
        for attacked in result["robustness"] or ():
            if (metrics := attacked["metrics"].get(test)) is None:
                continue
            how = {**attacked["attack"], "seed": None, "pictures": metrics["pictures"]}
            first, other = known.setdefault(title_of(attacked), (how, result))
            if how != first:
                places = " and ".join(found[FOLDER] for found in (other, result) if FOLDER in found)
                raise ValueError(
                    f"{title_of(attacked)} attacked with other steps, or other numbers of pictures, in different "
                    f"runs: {places or 'see their results'}. Report them apart, or run one of them again."
                )


def robust_curves(results: Iterable[Result], test: str) -> dict[str, Rows]:
    """
    Collect the accuracies on attacked pictures of a test set by the size of the attack.

    Args:
        results: results of one protocol, all with the same number of shots.
        test: name of the test set.

    Returns:
        For each attack rows whose columns are its eps, in levels of 255; 0 is the picture before the attack.

    Raises:
        ValueError: if two results have the same row, column and seed.
    """
    results = list(results)
    names = dict.fromkeys(attacked["name"] for result in results for attacked in result["robustness"] or ())

    def values_of(name: str, result: Result) -> dict[Column, Optional[float]]:
        found: dict[Column, Optional[float]] = {}
        for attacked in result["robustness"] or ():
            metrics = attacked["metrics"].get(test)
            if attacked["name"] == name and metrics is not None:
                found[0.0] = metrics["clean"]
                found[levels(attacked["attack"]["eps"])] = metrics["attacked"]
        return found

    return {name: rows_of(results, lambda result, name=name: values_of(name, result)) for name in names}


def test_sets(results: Iterable[Result]) -> list[str]:
    """
    List the test sets whose pictures were attacked.

    Args:
        results: results of any runs.

    Returns:
        The names, in the order in which they first occur.
    """
    attacked = [found for result in results for found in result["robustness"] or ()]
    return list(dict.fromkeys(name for found in attacked for name in found["metrics"]))


def robustness_tables(section: Section) -> dict[str, str]:
    """
    Make the tables of accuracy on attacked pictures, one for each protocol, number of shots and test set.

    Args:
        section: the results of one model on one data set.

    Returns:
        The tables by title; an empty dict if no pictures were attacked.
    """
    return {
        f"Attacked pictures: {where}": (
            f"{accuracy_table(robust_rows(results, test))}\n\n{_attacks(results, test)} {KNOWLEDGE}"
        )
        for where, results, test in runs_by_test(section.results, test_sets)
    }


def _attacks(results: Sequence[Result], test: str) -> str:
    """What the attacks of a table have in common."""
    attacked = [found for result in results for found in result["robustness"] or () if found["metrics"].get(test)]
    numbers = sorted({found["metrics"][test]["pictures"] for found in attacked})
    steps = {
        f"`{found['name']}` {levels(found['attack']['eps']):g}/255": found["attack"]["steps"] for found in attacked
    }
    usual = mode(steps.values())
    others = "".join(f", {name} in {number}" for name, number in steps.items() if number != usual)
    return (
        f"Each attack changes a pixel by at most the given share, in {usual} steps{others}, on "
        f"{' or '.join(f'{number:,}' for number in numbers)} pictures."
    )
