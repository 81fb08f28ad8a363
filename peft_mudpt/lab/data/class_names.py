"""Names of classes that a user gives: in a file, for class folders, and separated by commas."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from ...rules import is_text, normalized
from .files import listed
from .text_files import read_json_object, read_text


FLAG = "--class_names"


def read_class_names(path: Path, folders: Sequence[str], may_name_others: bool = False) -> dict[str, str]:
    """
    Read the names of class folders.

    Args:
        path: a file in UTF-8 with lines "folder = name"; there are spaces around "=". Empty lines are skipped. A line
            may also be "folder name", as in the file classnames.txt of CoOp's ImageNet. A file that ends in .json
            holds an object with the name of each folder.
        folders: names of the class folders, in NFC.
        may_name_others: whether the file may also name folders that are not there.

    Returns:
        Names by folder, in the form NFC. A folder that the file does not name is missing.

    Raises:
        ValueError: if the file cannot be read or a line has another form, or if it names an unknown folder, or a
            folder a second time.
    """
    names: dict[str, str] = {}
    for where, folder, name in (_of_json if path.suffix == ".json" else _of_lines)(path, folders):
        if folder not in folders:
            if may_name_others:
                continue
            raise ValueError(f"{where} names the folder {folder!r}, but the class folders are {listed(folders)}.")
        if folder in names:
            raise ValueError(f"{where} names the folder {folder!r} a second time; remove one of the two lines.")
        names[folder] = name
    return names


def _of_json(path: Path, folders: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Where a name stands, its folder and the name."""
    for folder, name in read_json_object(path, FLAG, '{"001.Cat": "black-footed cat", ...}').items():
        where = f"{FLAG} {path}"
        if not (is_text(name) and name.strip()):
            raise ValueError(f"{where} must hold a name for the folder {folder!r}; found {name!r}.")
        yield where, folder, normalized(name.strip())


def _of_lines(path: Path, folders: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Where a name stands, its folder and the name."""
    for number, line in enumerate(map(str.strip, read_text(path, FLAG).split("\n")), start=1):
        if not line:
            continue
        where = f"Line {number} of {FLAG} {path}"
        folder, *name = re.split(r"\s+=\s+", normalized(line), maxsplit=1)
        if not name:
            folder, *name = _without_sign(normalized(line), folders, where)
        if not name:
            raise ValueError(f"{where} must be 'folder = name', with spaces around '='; found {line!r}.")
        yield where, folder, name[0]


def _without_sign(line: str, folders: Sequence[str], where: str) -> list[str]:
    """The folder and the name in a line "folder name"; the line alone if it has another form."""
    first, *rest = line.split(maxsplit=1)
    starts = [folder for folder in folders if re.match(rf"{re.escape(folder)}\s+[^\s=]", line)]
    if len(starts) > 1:
        raise ValueError(f"{where} begins with the names of several folders, {listed(starts)}. Write 'folder = name'.")
    if starts:
        return [starts[0], line[len(starts[0]) :].strip()]
    return [line] if "=" in first or not rest or rest[0].startswith("=") else [first, *rest]


def join_names(names: Sequence[str]) -> str:
    """
    Join class names by commas, as `split_names` takes them.

    Args:
        names: the names.

    Returns:
        The names; those with a comma or a quote are in quotes.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()


def split_names(text: Optional[str]) -> Optional[list[str]]:
    """
    Split comma-separated class names.

    Args:
        text: the names, such as 'cat,dog'. Quotes keep a name with a comma together: '"cat, wild",dog'. May be None.

    Returns:
        The names; None if `text` is None.

    Raises:
        ValueError: if there are fewer than two names, one occurs twice, or a quote is not closed.
    """
    if text is None:
        return None
    try:
        names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True, strict=True), [])]
    except csv.Error as error:
        raise ValueError(f"--classes {text!r} is not a list of names separated by commas: {error}.") from error
    if len(names) < 2 or not all(names):
        raise ValueError(f"--classes needs at least two comma-separated names; found {names}.")
    twice = sorted(name for name, times in Counter(map(normalized, names)).items() if times > 1)
    if twice:
        raise ValueError(f"--classes names {', '.join(map(repr, twice))} more than once. Give each class once.")
    return names
