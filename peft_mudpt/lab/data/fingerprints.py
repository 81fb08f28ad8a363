"""Fingerprints of pictures and other files: two with the same fingerprint are equal, byte for byte."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 100  # pictures that are in memory at a time
CHUNK = 2**20  # bytes of a file that are in memory at a time

SETTLED = 2.0  # seconds after which a later change of a file shows in its times, which may be rounded
# The fingerprints of files that this process has read, with what `stat` said of the file then.
_known: dict[str, tuple[tuple[int, ...], str]] = {}


def fingerprint(example: dict) -> str:
    """
    Compute the SHA-256 of a picture file. The picture is not decoded. A file that was not changed since is not read
    again.

    Args:
        example: an example of a split of `FewShotData`. Its `image` has the `bytes` of the file, or its `path`.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: if the file cannot be read.
    """
    image = example["image"]
    if image["bytes"] is not None:
        return hashlib.sha256(image["bytes"]).hexdigest()
    try:
        return fingerprint_of_file(image["path"])
    except OSError as error:
        raise ValueError(f"{example['item']} cannot be read: {error}. Replace or remove it.") from error


def fingerprints_of(pictures: Dataset) -> list[str]:
    """
    Compute the fingerprints of pictures.

    Args:
        pictures: a split of `FewShotData`.

    Returns:
        The fingerprint of each picture (see `fingerprint`).

    Raises:
        ValueError: if a file cannot be read.
    """
    return [fingerprint(example) for example in images_and_items(pictures)]


def images_and_items(pictures: Dataset) -> Iterator[dict]:
    """
    Read the columns `image` and `item` in batches, much faster than a loop over the pictures.

    Args:
        pictures: a split of `FewShotData`.

    Returns:
        An iterator over the pictures, each a dict of its `image` and its `item`.
    """
    for batch in pictures.select_columns(["image", "item"]).iter(BATCH):
        for image, item in zip(batch["image"], batch["item"]):
            yield {"image": image, "item": item}


def fingerprint_of_file(path: str) -> str:
    """
    Compute the SHA-256 of a file. A file that has not changed since this process read it last is not read again.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: if it cannot be read.
    """
    state = _state(path)
    if path in _known and _known[path][0] == state:
        return _known[path][1]
    with open(path, "rb") as file:
        content = hashlib.sha256()
        while chunk := file.read(CHUNK):
            content.update(chunk)
    digest = content.hexdigest()
    if _state(path) == state and time.time() - os.stat(path).st_ctime > SETTLED:
        _known[path] = state, digest
    return digest


def _state(path: str) -> tuple[int, ...]:
    """What changes if a file is written or replaced. The time `st_ctime` cannot be set back by a program."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
