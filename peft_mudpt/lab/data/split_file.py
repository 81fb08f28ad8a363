"""Reads the file that says which pictures of a folder are used for training, validation and testing."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ...rules import normalized
from .files import listed
from .separation import PARTS, Picture
from .text_files import read_text


def read_split(path: Path, pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    """
    Assign pictures to the parts of a data set.

    Args:
        path: a CSV file in UTF-8 with a row for each picture. The column "file" holds its `item`; "split" holds
            "train", "validation" or "test"; "group" holds any text, or none for a picture that is a group by itself.
            One of "split" and "group" may be missing. Other columns are ignored.
        pictures: the pictures of the data set.

    Returns:
        The pictures of each part that has any, in their order, with their groups. Without a column "split", all are
        in the part "train".

    Raises:
        ValueError: if the file is not such a CSV file, does not name each picture exactly once, names a file that is
            no picture of the data set, or assigns pictures of a group to two parts.
    """
    name = f"--split {path}"
    place = {normalized(picture.item): i for i, picture in enumerate(pictures)}
    place |= {picture.item: i for i, picture in enumerate(pictures)}
    rows: dict[int, tuple[str, str]] = {}  # part and group by position in `pictures`
    unknown, repeated = [], []
    for file, part, group in _rows(path, name):
        i = place.get(file, place.get(normalized(file)))
        if i is None:
            unknown.append(file)
        elif i in rows:
            repeated.append(file)
        else:
            rows[i] = part, group
    missing = [picture.item for i, picture in enumerate(pictures) if i not in rows]
    for files, what in (
        (unknown, "names files that are no pictures of the class folders"),
        (repeated, "names files more than once"),
        (missing, "has no row for some pictures of the class folders"),
    ):
        if files:
            raise ValueError(f"{name} {what}: {listed(files)}. Name each picture once, relative to --train_dir.")
    _refuse_divided_groups(rows.values(), name)
    parts: dict[str, list[Picture]] = defaultdict(list)
    for i, picture in enumerate(pictures):
        part, group = rows[i]
        parts[part].append(replace(picture, group=group or None))
    return dict(parts)


def _rows(path: Path, name: str) -> Iterator[tuple[str, str, str]]:
    """File, part and group of each row."""
    try:
        table = csv.DictReader(io.StringIO(read_text(path, "--split")), strict=True)
        columns = list(table.fieldnames or [])
        rows = list(table)
    except csv.Error as error:
        raise ValueError(f"{name} is not a CSV file: {error}.") from error
    if "file" not in columns or not {"split", "group"} & set(columns):
        raise ValueError(
            f"{name} must have the columns 'file' and 'split' or 'group', separated by commas; its first line holds "
            f"{columns}."
        )
    for number, row in enumerate(rows, start=1):
        file, part, group = ((row.get(column) or "").strip() for column in ("file", "split", "group"))
        part = part if "split" in columns else "train"
        if part not in PARTS:
            raise ValueError(f"Row {number} of {name} ({file}) has the split {part!r}; expected {', '.join(PARTS)}.")
        yield str(PurePosixPath(file)), part, group


def _refuse_divided_groups(rows: Iterable[tuple[str, str]], name: str) -> None:
    part_of: dict[str, str] = {}
    for part, group in rows:
        if group and part_of.setdefault(group, part) != part:
            raise ValueError(
                f"{name} assigns pictures of the group {group!r} to {part_of[group]} and to {part}. A group belongs "
                "to one of them."
            )
