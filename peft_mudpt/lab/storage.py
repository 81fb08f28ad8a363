"""Reads and writes files, so that a killed process leaves no file incomplete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any

from safetensors import SafetensorError


PARTIAL = ".partial"  # suffix of files and folders that are not complete yet


def read_json(path: Path) -> dict[str, Any]:
    """
    Read a JSON file that holds an object.

    Args:
        path: path of the file.

    Returns:
        The object.

    Raises:
        ValueError: if the content is not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}. Delete it and run the experiment again.") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} is not a JSON object: {short_repr(content)}. Delete it and run the experiment again."
        )
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """
    Write a JSON file. `path` never holds an incomplete file.

    Args:
        path: path of the file; its folder is created if needed.
        content: what to write.
    """
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """
    Write a text file. `path` never holds an incomplete file.

    Args:
        path: path of the file; its folder is created if needed.
        text: what to write.

    Raises:
        OSError: if the file cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """
    Write a file. `path` never holds an incomplete file.

    Args:
        path: path of the file; its folder is created if needed.
        content: what to write.

    Raises:
        OSError: if the file cannot be written.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + PARTIAL)
        partial.write_bytes(content)
        os.replace(partial, path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """
    Name what is written in this context if that fails, because the errors of libraries do not, such as on a full disk.

    Args:
        path: the file or the folder that is written.

    Raises:
        OSError: if it cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save raises RuntimeError
        raise OSError(
            f"{path} cannot be written: {error}. Make room or change the permissions, and give the same command again."
        ) from error
