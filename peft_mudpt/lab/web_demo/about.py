"""Tells visitors of the page what answers them: the run, its accuracy, and what its CLIP does not know."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ... import demo as embedded
from ..backbone import EMBEDDED, KNOWS_SHAPES_ONLY
from ..intervals import interval_in_words
from ..protocols import number_of_pictures
from ..report.escaping import plain


QUESTION = "What is in the picture?"


class About(NamedTuple):
    """
    What visitors should know before they trust an answer.

    Args:
        name: the name of the run or the adapter; None: unknown.
        lines: sentences about it, in Markdown.
    """

    name: Optional[str] = None
    lines: Sequence[str] = ()

    @property
    def title(self) -> str:
        """The title of the page."""
        return QUESTION if self.name is None else f"{self.name}: {QUESTION[0].lower()}{QUESTION[1:]}"

    def as_markdown(self) -> str:
        """The title and the lines, as Markdown."""
        return "\n\n".join([f"# {plain(self.title)}", *self.lines])


UNKNOWN = About()


def describe(name: str, result: Mapping[str, Any], base_model_name_or_path: str) -> About:
    """
    Describe what answers on the page.

    Args:
        name: the name of the run or the adapter.
        result: the result of the run, with the fields of `schema.FIELDS`; empty if there is none.
        base_model_name_or_path: the folder or the Hub id of the CLIP.

    Returns:
        The name, the accuracy on each test set, and the caveat of the embedded CLIP.
    """
    arguments = result.get("arguments", {})
    tested = {test: metrics for test, metrics in result.get("metrics", {}).items() if metrics is not None}
    lines = [
        f"On the {number_of_pictures(metrics):,} {arguments['evaluate_on']} pictures of its run"
        f"{'' if len(tested) == 1 else f' ({plain(test)})'}, **{metrics['accuracy']:.1f} %** of the answers are right "
        f"({interval_in_words(metrics)})."
        for test, metrics in tested.items()
    ]
    if arguments.get("model_name_or_path") == EMBEDDED or is_embedded(base_model_name_or_path):
        lines.append(f"{KNOWS_SHAPES_ONLY}.")
    return About(name, lines)


def name_of(adapter: str | os.PathLike) -> str:
    """
    Name an adapter.

    Args:
        adapter: its folder or its Hub id.

    Returns:
        The name of the folder without its path, which strangers need not see; or the id.
    """
    return Path(adapter).resolve().name if Path(adapter).exists() else os.fspath(adapter)


def is_embedded(base_model_name_or_path: str) -> bool:
    """
    Tell whether a CLIP is the one that the package contains.

    Args:
        base_model_name_or_path: its folder or its Hub id.

    Returns:
        True if it is.
    """
    folder = Path(base_model_name_or_path)
    return folder.is_dir() and folder.samefile(embedded.MODEL_PATH)
