"""Describes how two runs differ, so that a user knows why one may not take the place of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .data.files import listed
from .identity import DATA_PATHS, MODEL, MODEL_FINGERPRINTS, PICTURES, TASK, as_identity
from .method import CLASSIFICATION
from .recipe import warmup_steps


def differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """
    Describe how two runs differ.

    If the pictures of both runs are known, it does not matter in which folders they are. The same holds for the model.
    Classes that were added or removed come before pictures and without their own, because they are the reason for the
    rest: with another class, other pictures of the others are drawn for training.

    Args:
        there: identity of the stored run.
        asked: identity of the requested run.

    Returns:
        The flags with different values, the classes that were added or removed, and the pictures and the files of the
        model that changed, as text; empty if the runs are the same.
    """
    there, asked = as_identity(there), as_identity(asked)
    known = PICTURES in there and PICTURES in asked
    known_model = there.get(MODEL_FINGERPRINTS) and asked.get(MODEL_FINGERPRINTS)
    skipped = (PICTURES, MODEL_FINGERPRINTS, *(DATA_PATHS if known else ()), *((MODEL,) if known_model else ()))
    if _has_no_warmup(there) or _has_no_warmup(asked):  # then another ratio or number of steps makes the difference
        skipped += ("warmup",)
    flags = differences_of_flags(there, asked, [name for name in {**asked, **there} if name not in skipped])
    pictures = _differences_of_pictures(there, asked) if known else ()
    return "; ".join([*flags, *pictures, *differences_of_models(there, asked)])


def differences_of_flags(there: Mapping[str, Any], asked: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    """
    Say which flags have another value.

    Args:
        there: values of the stored run, by flag.
        asked: values of the requested run, by flag.
        names: the flags that are compared, in order.

    Returns:
        The flags with both values, as text.
    """
    for name in names:
        if there.get(name) != asked.get(name):
            yield f"{name}: {in_words(there.get(name))} there, {in_words(asked.get(name))} here"


def _differences_of_pictures(there: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """Say which classes were added or removed, and which pictures of the other classes changed."""
    theirs, ours = there[PICTURES], asked[PICTURES]
    added, removed = _classes(asked) - _classes(there), _classes(there) - _classes(asked)
    for what, names in (("added", added), ("removed", removed)):
        if names:
            yield f"{len(names)} {'class' if len(names) == 1 else 'classes'} {what}: {listed(sorted(names))}"
    for name in {**ours, **theirs}:
        before = {item: found for item, found in theirs.get(name, {}).items() if _class_of(found) not in removed}
        now = {item: found for item, found in ours.get(name, {}).items() if _class_of(found) not in added}
        if counts := _changes(before, now):
            yield f"{name} pictures: {counts}"


def _classes(identity: Mapping[str, Any]) -> set[str]:
    """The classes of the pictures of a run; none for detection, because there a picture has several."""
    if identity[TASK] != CLASSIFICATION:
        return set()
    return {_class_of(found) for pictures in identity[PICTURES].values() for found in pictures.values()}


def _class_of(found: str) -> str:
    """The class of a picture, from its entry in the identity (see `identity.pictures_of`)."""
    return found.partition(" ")[2]


def differences_of_models(there: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """
    Say how the files of two models differ.

    Args:
        there: identity of the stored run, or only what it says under `MODEL_FINGERPRINTS`.
        asked: the same of the requested run.

    Returns:
        The files that changed, as text; nothing if there are none, or if a run does not know whether there are files.
    """
    if MODEL_FINGERPRINTS in there and MODEL_FINGERPRINTS in asked:
        theirs, ours = there[MODEL_FINGERPRINTS], asked[MODEL_FINGERPRINTS]
        if theirs and ours:
            if counts := _changes(theirs, ours):
                yield f"files of --{MODEL}: {counts}"
        elif theirs or ours:
            places = ["in a folder" if files else "of the Hub" for files in (theirs, ours)]
            yield f"{MODEL}: {places[0]} there, {places[1]} here"


def in_words(value: Any, show: Callable[[Any], str] = repr) -> str:
    """
    Show an option of a run or a job in a message.

    Args:
        value: its value; None: it is not given.
        show: how other values are shown.

    Returns:
        The words.
    """
    return "not given" if value is None else show(value)


def _changes(there: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say which pictures or files were added, removed, replaced or, of pictures, given to another class."""
    both = [item for item in now if item in there and now[item] != there[item]]
    replaced = [item for item in both if now[item].split(" ")[0] != there[item].split(" ")[0]]
    changes = {
        "added": [item for item in now if item not in there],
        "removed": [item for item in there if item not in now],
        "replaced": replaced,
        "labeled differently": [item for item in both if item not in replaced],
    }
    return ", ".join(
        f"{len(items)} {what} ({', '.join(items[:3])}{', ...' if len(items) > 3 else ''})"
        for what, items in changes.items()
        if items
    )


def _has_no_warmup(identity: Mapping[str, Any]) -> bool:
    """True if the options say that no step precedes the peak, so that the kind of warmup does not matter."""
    ratio, steps = identity["warmup_ratio"], identity["max_train_steps"]
    if not isinstance(ratio, (int, float)):
        return False
    return ratio == 0 or (isinstance(steps, int) and warmup_steps(ratio, steps) == 0)
