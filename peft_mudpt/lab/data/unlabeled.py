"""Finds pictures without labels: files, folders of files, and columns of parquet files."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any, Optional

import pyarrow as pa
import pyarrow.parquet as pq

from .files import describe_left_aside, list_pictures, listed


PARQUET = ".parquet"
ROWS_AT_ONCE = 16  # of a parquet file, in memory
BYTES_AT_ONCE = 1 << 20  # of a parquet file, read ahead


class PictureFiles(Sequence[str]):
    """
    Paths of pictures, held so that a million take little memory, also in each process that reads some of them.

    Args:
        paths: the paths.
    """

    def __init__(self, paths: Iterable[str]):
        self.paths = pa.array(map(os.fsencode, paths), pa.large_binary())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: Any) -> Any:
        return os.fsdecode(self.paths[position].as_py())

    def name(self, picture: Any, position: int) -> str:
        """The path of a picture."""
        return self[position]

    def fingerprint(self) -> str:
        """A SHA-256 of the paths and of the sizes and times of the files, which tells whether they have changed."""
        return _digest([path, *_size_and_time(path)] for path in self)


class ParquetPictures(Sequence[Any]):
    """
    The pictures in a column of parquet files, each as `open_picture` takes it. Rows that follow each other are read
    from the file a few at a time; any others are found again from the beginning of their row group.

    Args:
        files: the parquet files.
        column: the name of the column; None: the only one that can hold pictures.

    Raises:
        ValueError: if a file cannot be read, or if it has no such column, or several if `column` is None.
    """

    def __init__(self, files: Sequence[str], column: Optional[str] = None):
        self.files = list(files)
        self.column = find_column(self.files, column)
        groups = []  # file, number in it, and number of rows, of each row group
        for file in self.files:
            content = _opened(file).metadata
            groups += [(file, i, content.row_group(i).num_rows) for i in range(content.num_row_groups)]
        self.groups = [group for group in groups if group[2]]
        self.starts = [0, *accumulate(rows for _, _, rows in self.groups)]  # positions of the row groups' first rows
        self._rows: Iterator[Any] = iter(())
        self._group = self._next = -1  # the row group of `_rows`, and the position of the next of them

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, position: Any) -> Any:
        group = bisect.bisect_right(self.starts, position) - 1
        if group != self._group or self._next > position:
            file, number, _ = self.groups[group]
            self._rows = _rows(file, number, self.column)
            self._group, self._next = group, self.starts[group]
        while True:
            try:
                row = next(self._rows)
            except Exception as error:  # of a damaged file: no row that follows in its row group can be read
                self._rows = map(_raise, repeat(error))
                self._next = position + 1
                raise
            self._next += 1
            if self._next > position:
                return row.as_py()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": iter(()), "_group": -1}  # a process that reads opens the file itself

    def name(self, picture: Any, position: int) -> str:
        """The path of a picture if the file stores it; otherwise its row, counted from 0."""
        path = picture.get("path") if isinstance(picture, dict) else picture
        return path if path and isinstance(path, str) else f"row {position}"

    def fingerprint(self) -> str:
        """A SHA-256 of the column and the files, their sizes and times, which tells whether they have changed."""
        return _digest([self.column, file, *_size_and_time(file)] for file in self.files)


def find_pictures(
    inputs: Sequence[str], image_column: Optional[str] = None
) -> tuple[PictureFiles | ParquetPictures, Counter[str]]:
    """
    Find the pictures that a user names.

    Args:
        inputs: picture files and folders, which are searched with their subfolders; or parquet files.
        image_column: the column of pictures in parquet files (see `ParquetPictures`).

    Returns:
        The pictures in the order of `inputs`, those of a folder sorted by path, and the number of the other files in
        the folders by kind.

    Raises:
        ValueError: if there are both parquet files and others, if there are no pictures, if `image_column` is given
            without a parquet file, or if a folder or a parquet file cannot be used.
    """
    parquet = [given for given in inputs if given.lower().endswith(PARQUET) and not os.path.isdir(given)]
    if parquet:
        if len(parquet) < len(inputs):
            raise ValueError(
                f"{listed(parquet)} and {listed([x for x in inputs if x not in parquet])} were given. "
                "Give either parquet files or pictures and folders."
            )
        found = ParquetPictures(parquet, image_column)
        if not found:
            raise ValueError(f"{listed(parquet)} holds no rows. Give a file with pictures.")
        return found, Counter()
    if image_column is not None:
        raise ValueError(f"--image_column {image_column} needs a parquet file. Give one, or leave it out.")
    paths, left_aside = [], Counter[str]()
    for given in inputs:
        if not os.path.isdir(given):
            paths.append(given)
            continue
        pictures, others = list_pictures(Path(given))
        paths += map(str, pictures)
        left_aside += others
    if not paths:
        others = f" (left aside: {describe_left_aside(left_aside)})" if left_aside else ""
        raise ValueError(f"{listed(inputs)} holds no pictures{others}. Give a folder with pictures.")
    return PictureFiles(paths), left_aside


def find_column(files: Sequence[str], column: Optional[str] = None) -> str:
    """
    Find the column of pictures in parquet files. It holds dicts of `bytes` or `path`, as `datasets` stores pictures,
    or the bytes of files, or paths.

    Args:
        files: parquet files.
        column: the name of the column; None: the only column of dicts; without one, the only column of bytes; without
            one, the only column of text.

    Returns:
        The name of the column.

    Raises:
        ValueError: if a file cannot be read, or if it has no such column or several.
    """
    first, *others = (_opened(file).schema_arrow for file in files)
    kinds = {name: _kind(first.field(name).type) for name in first.names}
    if column is None:
        possible = next((same for kind in _KINDS if (same := [n for n, k in kinds.items() if k == kind])), [])
        if len(possible) != 1:
            raise ValueError(
                f"{files[0]} has {len(possible) or 'no'} columns that can hold pictures, of {listed(first.names)}. "
                f"Name one with --image_column{f', such as {possible[0]}' if possible else ''}."
            )
        column = possible[0]
    for file, schema in zip(files, (first, *others)):
        if column not in schema.names or _kind(schema.field(column).type) is None:
            found = f"is {schema.field(column).type}" if column in schema.names else "is missing"
            raise ValueError(
                f"The column {column} of {file} {found}, but must hold bytes of files, paths, or both as `datasets` "
                f"stores them. It has {listed(schema.names)}; name the right one with --image_column."
            )
    return column


_KINDS = ("dicts", "bytes", "paths")


def _kind(kind: pa.DataType) -> Optional[str]:
    """How a column of a type holds pictures; None if it does not."""
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_struct(kind):
        return "dicts" if {field.name for field in kind} & {"bytes", "path"} else None
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "bytes"
    return "paths" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def _opened(file: str) -> pq.ParquetFile:
    try:  # not read ahead as a whole, and in this thread
        return pq.ParquetFile(file, buffer_size=BYTES_AT_ONCE, pre_buffer=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{file} cannot be read as a parquet file: {error}") from error


def _rows(file: str, group: int, column: str) -> Iterator[Any]:
    """Yield the values of a column in a row group."""
    for batch in _opened(file).iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False):
        yield from batch.column(0)


def _raise(error: Exception) -> Any:
    raise error


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0  # a missing file is an error of its row
    return found.st_size, found.st_mtime_ns


def _digest(rows: Iterable[list[Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()
