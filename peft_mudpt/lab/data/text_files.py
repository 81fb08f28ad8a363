"""Reads text files that flags name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...rules import normalized


def read_text(path: Path, flag: str) -> str:
    """
    Read a text file that a flag names.

    Args:
        path: the file.
        flag: the flag, for the error.

    Returns:
        The text, without the byte order mark that some editors write.

    Raises:
        ValueError: if there is no such file, or if it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{flag} {path} cannot be read: {error.strerror}. Give a text file.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{flag} {path} is not UTF-8. Save it in this encoding.") from error


def read_json_object(path: Path, flag: str, example: str) -> dict[str, Any]:
    """
    Read a JSON file that a flag names, and that holds an object.

    Args:
        path: the file.
        flag: the flag, for the error.
        example: what the file must look like, for the error.

    Returns:
        The members of the object. Their names, also those of objects in it, have the form NFC.

    Raises:
        ValueError: if the file cannot be read, is not JSON or holds no object, or if an object names a member twice,
            of which `json` would keep the last.
    """

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if normalized(name) in found:
                raise ValueError(f"{flag} {path} names {name!r} twice; remove one of them.")
            found[normalized(name)] = value
        return found

    text = read_text(path, flag)
    try:
        members = json.loads(text, object_pairs_hook=distinct)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{flag} {path} is not JSON: {error}. It must look like {example}.") from error
    if not isinstance(members, dict):
        raise ValueError(f"{flag} {path} must look like {example}; it holds no object.")
    return members
