"""Suggests the known names that unknown ones are similar to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches


def did_you_mean(unknown: Iterable[str], known: Iterable[str], show: Callable[[str], str] = str) -> str:
    """
    Ask whether a user meant other names.

    Args:
        unknown: names that the user gave.
        known: the names that can be given. Upper and lower case do not count.
        show: how a known name is shown.

    Returns:
        A question that names the most similar known name of each unknown one; empty if none is similar.
    """
    names = {name.casefold(): name for name in known}
    found = [names[near] for name in unknown for near in get_close_matches(name.casefold(), names, n=1)]
    return f"Did you mean {', '.join(map(show, dict.fromkeys(found)))}?" if found else ""
