"""Says how many pictures of each class a run was trained on: fewer than its shots, if a class has fewer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def counted(number: int, noun: str) -> str:
    """
    Say how many there are.

    Args:
        number: how many.
        noun: what one of them is called.

    Returns:
        Words such as "1 shot" or "16 shots".
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shots_in_words(results: Iterable[dict[str, Any]], noun: str = "shot") -> str:
    """
    Say how many pictures of each class runs were trained on.

    Args:
        results: the runs. Those with fewer shots than others, such as zero-shot, do not count.
        noun: what a picture is called.

    Returns:
        Words such as "16 shots"; "at most 16 shots" if a class had fewer pictures, and none more, as in detection,
        where a picture counts for each of its classes.
    """
    results = list(results)
    most = max(result["arguments"]["shots"] for result in results)
    are_fewer = has_fewer(result for result in results if result["arguments"]["shots"] == most)
    return f"at most {counted(most, noun)}" if are_fewer else counted(most, noun)


def has_fewer(results: Iterable[dict[str, Any]]) -> bool:
    """
    Check whether a class had fewer training pictures than the shots, and none more.

    Args:
        results: runs with the same shots.

    Returns:
        True if so; False if the runs do not tell.
    """
    missing = [result["arguments"]["shots"] - number for result in results for number in _drawn(result)]
    return max(missing, default=0) > 0 and min(missing) >= 0


def drawn_in_words(result: dict[str, Any]) -> str:
    """
    Say how many pictures of each class a run was trained on, in numbers.

    Args:
        result: the run.

    Returns:
        A number such as "16"; "3 to 10 (at most 16)" if some classes had fewer pictures than the shots.
    """
    most, numbers = result["arguments"]["shots"], _drawn(result)
    if not numbers or {*numbers} == {most}:
        return str(most)
    drawn = f"{min(numbers)} to {max(numbers)}" if min(numbers) < max(numbers) else f"{min(numbers)}"
    return f"{drawn} (at most {most})" if max(numbers) <= most else f"{drawn} ({most} asked for)"


def _drawn(result: dict[str, Any]) -> list[int]:
    """The number of training pictures of each class; empty in results of earlier versions."""
    return [*(result["training_pictures"] or {}).values()]
