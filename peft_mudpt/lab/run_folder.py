"""The folder of a run: who may use it, and what belongs to the run there."""

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
RUN = "run.json"  # what was asked, from the moment training starts
RUN_FILES = (RUN, RESULT, ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBE_WEIGHTS)  # and a card, if it is beside one of them


def claim(folder: Path, asked: dict[str, Any], overwrite: bool = False) -> Optional[dict[str, Any]]:
    """
    Make sure that a run may use a folder. Nothing is changed there yet.

    Args:
        folder: the run's; need not exist.
        asked: what decides the run's result (see `identity.what_was_asked`).
        overwrite: whether it may take the place of another run, or its own from the beginning.

    Returns:
        The result, if this very run has finished there; else None.

    Raises:
        ValueError: if the folder holds another run, or an adapter of no run.
    """
    found = sorted(name for name in RUN_FILES if (folder / name).exists())
    if overwrite or not found:
        return None
    choice = "Choose another --output_dir, or give --overwrite_output_dir."
    if found == [RUN] and not (folder / CHECKPOINTS).exists():
        return None  # a run that failed and left nothing to go on from
    if RUN not in found:
        raise ValueError(f"{folder} holds {', '.join(found)}, of no run that is known. {choice}")
    other = json.loads((folder / RUN).read_text(encoding="utf-8"))
    if differing := differences(other, asked):
        raise ValueError(f"{folder} holds another run ({differing}). {choice}")
    return read_result(folder)


@contextmanager
def hold(folder: Path, asked: dict[str, Any], overwrite: bool = False) -> Iterator[None]:
    """
    Keep other processes from a folder, and write down there which run it belongs to; where `overwrite`, delete first
    what another run left (its files only). Arguments are those of `claim`.

    Raises:
        ValueError: if another process is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"Another process is at work in {folder}. Wait for it, or stop it.") from error
    try:
        if overwrite and any((folder / name).exists() for name in RUN_FILES):
            for name in (*RUN_FILES, CARD):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        write_json(folder / RUN, asked)
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
