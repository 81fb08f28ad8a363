"""Reads the files that give several texts to a class, and identifies their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from ...classifier.templates import TEMPLATES
from ...rules import check_descriptions, check_template, normalized
from .catalogue import CATALOGUE
from .text_files import read_json_object, read_text


# CoOp has one template for each data set; that of ImageNet is the usual one, so the name stands for CLIP's set.
SETS = {name: (data_set.template,) for name, data_set in CATALOGUE.items()} | TEMPLATES


def read_templates(name: str, flag: str = "--templates") -> tuple[str, ...]:
    """
    Find a set of templates.

    Args:
        name: a name in `SETS`, or the path of a file in UTF-8 with one template per line. Empty lines are skipped.
        flag: the flag that gives the name, for errors.

    Returns:
        The templates.

    Raises:
        ValueError: if there is no such set or file, if a line holds `{}` not exactly once or occurs a second time, or
            if there is no line.
    """
    if name in SETS:
        return SETS[name]
    if not Path(name).is_file():
        raise ValueError(f"{flag} {name} is neither a file nor a set of templates; the sets are {', '.join(SETS)}.")
    templates: list[str] = []
    for number, line in enumerate(map(str.strip, read_text(Path(name), flag).split("\n")), start=1):
        if not line:
            continue
        check_template(line, f"Line {number} of {flag} {name}")
        if line in templates:
            raise ValueError(f"Line {number} of {flag} {name} repeats {line!r}; remove one of the two lines.")
        templates.append(line)
    if not templates:
        raise ValueError(f"{flag} {name} holds no template. Write one per line, such as 'a photo of a {{}}.'.")
    return tuple(templates)


def read_descriptions(path: Path, flag: str = "--descriptions") -> dict[str, list[str]]:
    """
    Read descriptions of classes.

    Args:
        path: a JSON file in UTF-8: an object that holds a list of sentences for each class name.
        flag: the flag that names the file, for errors.

    Returns:
        The sentences by class name, in the form NFC.

    Raises:
        ValueError: if the file cannot be read or is not JSON, if it names a class twice, or if a class has no list of
            non-empty sentences. The message names the class.
    """
    descriptions = read_json_object(path, flag, '{"cat": ["a cat has whiskers."], ...}')
    check_descriptions(descriptions, f"{flag} {path}")
    return descriptions


def identify_templates(templates: Optional[Sequence[str]]) -> Optional[str]:
    """
    Identify templates by their content, for the identity of a run.

    Args:
        templates: the templates, or None.

    Returns:
        The name of their set, the only template, or their number and SHA-256. None for None.
    """
    if templates is None:
        return None
    names = [name for name, members in TEMPLATES.items() if members == tuple(templates)]
    if names or len(templates) == 1:
        return [*names, *templates][0]
    return f"{len(templates)} templates, SHA-256 {_fingerprint(list(templates))}"


def identify_descriptions(descriptions: Optional[Mapping[str, Sequence[str]]]) -> Optional[str]:
    """
    Identify descriptions by their content, for the identity of a run. The order of the classes does not matter.

    Args:
        descriptions: sentences by class name, or None.

    Returns:
        The number of classes, and the SHA-256. None for None.
    """
    if descriptions is None:
        return None
    content = {normalized(name): list(sentences) for name, sentences in descriptions.items()}
    return f"{len(content)} classes, SHA-256 {_fingerprint(content)}"


def _fingerprint(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
