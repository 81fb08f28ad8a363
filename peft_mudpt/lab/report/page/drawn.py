"""The training pictures on the page of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...run_pictures import TRAINING, RunPictures
from ..sections import Result
from .thumbnails import Thumbnail, Thumbnails


NAMES_LISTED = 2000


def drawn_values(result: Result, pictures: RunPictures, most: int) -> dict[str, Any]:
    """
    Collect what the page of a run shows of its training pictures.

    Args:
        result: a result of classification.
        pictures: the pictures of the run, which also tell their classes.
        most: how many are shown.

    Returns:
        The values: the pictures by class, or in one group if their classes are unknown.
    """
    classes = pictures.classes(TRAINING)
    groups: dict[str, list[str]] = {name: [] for name in result["class_names"] if name in {*classes.values()}}
    for item in result["items"]["train"]:
        groups.setdefault(classes.get(item, ""), []).append(item)
    thumbnails = Thumbnails(pictures, most)
    shown: dict[str, list[tuple[str, Thumbnail]]] = {name: [] for name in groups}
    for name, item in in_turn(groups):
        if (found := thumbnails.make(TRAINING, item)) is not None:
            shown[name].append((item, found))
    listed, left = [], NAMES_LISTED
    for name, items in groups.items():
        members = items[: max(0, left)]
        listed.append({"name": name, "number": len(items), "members": members, "thumbnails": shown[name]})
        left -= len(items)
    return {
        "number": len(result["items"]["train"]),
        "validation": len(result["items"]["validation"]),
        "groups": listed,
        "shows_pictures": any(shown.values()),
        "unlisted": max(0, -left),
        "missing": thumbnails.missing,
    }


def in_turn(items_by_class: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """
    Order pictures so that the first ones show as many classes as possible.

    Args:
        items_by_class: pictures of each class.

    Returns:
        Class and picture: the first picture of each class, then the second of each, and so on.
    """
    longest = max(map(len, items_by_class.values()), default=0)
    return [(name, items[i]) for i in range(longest) for name, items in items_by_class.items() if i < len(items)]
