"""The folder of a run: which run may use it, and which of its files belong to the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from filelock import FileLock, Timeout

from .identity import differences
from .schema import RESULT, read_result, write_json


ADAPTER_WEIGHTS = "adapter_model.safetensors"
PROBE_WEIGHTS = "linear_probe.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
CARD = "README.md"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
RUN = "run.json"  # the options of the run; written when training starts
RUN_FILES = (RUN, RESULT, ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBE_WEIGHTS)  # CARD belongs to a run only beside these


def claim(folder: Path, asked: dict[str, Any], overwrite: bool = False) -> Optional[dict[str, Any]]:
    """
    Check that a run may use a folder. The folder is not changed.

    Args:
        folder: the folder of the run; it need not exist.
        asked: the options that determine the result of the run (see `identity.what_was_asked`).
        overwrite: True if the run may replace the files of another run, or its own.

    Returns:
        The result, if this run has already finished in the folder and `overwrite` is False; else None.

    Raises:
        ValueError: if `overwrite` is False and the folder holds another run, or files of a run without its `run.json`.
    """
    found = sorted(name for name in RUN_FILES if (folder / name).exists())
    if overwrite or not found:
        return None
    choice = "Choose another --output_dir, or give --overwrite_output_dir."
    if found == [RUN] and not (folder / CHECKPOINTS).exists():
        return None  # the run failed and left no checkpoint
    if RUN not in found:
        raise ValueError(f"{folder} holds {', '.join(found)}, but no {RUN} that names their run. {choice}")
    other = json.loads((folder / RUN).read_text(encoding="utf-8"))
    if differing := differences(other, asked):
        raise ValueError(f"{folder} holds another run ({differing}). {choice}")
    return read_result(folder)


@contextmanager
def hold(folder: Path, asked: dict[str, Any], overwrite: bool = False) -> Iterator[None]:
    """
    Lock a folder against other processes while the context is open, and write the options of its run to `run.json`.

    Args:
        folder: the folder of the run; it is created if needed.
        asked: the options that determine the result of the run (see `identity.what_was_asked`).
        overwrite: True to delete the files of a previous run first. Other files are kept.

    Raises:
        ValueError: if another process has locked the folder, or if `overwrite` is False and the folder holds the
            result of this run or files of another run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"Another process is using {folder}. Wait until it ends, or stop it.") from error
    try:
        if claim(folder, asked, overwrite) is not None:
            raise ValueError(
                f"{folder} already holds the result of this run. Choose another folder, or delete this one."
            )
        if overwrite and any((folder / name).exists() for name in RUN_FILES):
            for name in (*RUN_FILES, CARD):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        write_json(folder / RUN, asked)
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
