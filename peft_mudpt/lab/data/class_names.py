"""Reads the file that gives names to class folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ...rules import normalized
from .files import listed


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


def read_class_names(path: Path, folders: Sequence[str]) -> dict[str, str]:
    """
    Read the names of class folders.

    Args:
        path: a file in UTF-8 with lines "folder = name"; there are spaces around "=". Empty lines are skipped.
        folders: names of the class folders, in NFC.

    Returns:
        Names by folder, in the form NFC. A folder that the file does not name is missing.

    Raises:
        ValueError: if a line has another form, names an unknown folder, or names a folder a second time.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(read_text(path, "--class_names").split("\n"), start=1):
        if not line.strip():
            continue
        folder, *name = re.split(r"\s+=\s+", normalized(line.strip()), maxsplit=1)
        where = f"Line {number} of --class_names {path}"
        if not name:
            raise ValueError(f"{where} must be 'folder = name', with spaces around '='; found {line!r}.")
        if folder not in folders:
            raise ValueError(f"{where} names the folder {folder!r}, but the class folders are {listed(folders)}.")
        if folder in names:
            raise ValueError(f"{where} names the folder {folder!r} a second time; remove one of the two lines.")
        names[folder] = name[0]
    return names
