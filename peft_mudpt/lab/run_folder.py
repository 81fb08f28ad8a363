"""The folder of a run: which run may use it, and which of its files belong to the run."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Optional

from filelock import FileLock, Timeout

from ..classifier.saving import CLASSES
from .differences import differences
from .identity import TASK, as_identity, is_identity
from .learner import HEADS
from .method import CLASSIFICATION, DETECTION
from .methods import find_method
from .schema import RESULT, read_result
from .storage import PARTIAL, read_json, write_json
from .terminal import InUse


ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
CARD = "README.md"
EXAMPLES = "detections.png"  # test pictures with the boxes that were found
CHECKPOINTS = "checkpoints"
TRACKING = "peft_mudpt"  # the project of the trackers, and the subfolder of those that write files
LOCK = ".lock"
HOLDER = "process "  # what a lock file begins with
RUN = "run.json"  # the identity of the run; written when training starts
MODEL_FILES = ("config.json", "model.safetensors")  # of a model that was trained as a whole
LEARNED = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, CLASSES, *MODEL_FILES, *(head.file for head in HEADS))
# in the order of deletion: after a kill, what is left is neither a finished run nor files without their run
RUN_FILES = (RESULT, *LEARNED, EXAMPLES, CARD, RUN)
LEARNED_PARTIAL = f"learned{PARTIAL}"  # a folder; the learned weights are moved from it to the folder of the run
RUN_PARTIALS = (
    LEARNED_PARTIAL,
    RESULT + PARTIAL,
    CARD + PARTIAL,
    EXAMPLES + PARTIAL,
)  # what a killed run leaves beside its `run.json`
_CHECKPOINT = re.compile(r"step_\d{8,}")


def claim(
    folder: Path, identity: dict[str, Any], overwrite: bool = False, of_comparison: bool = False
) -> Optional[dict[str, Any]]:
    """
    Check that a run may use a folder. The folder is not changed.

    Args:
        folder: the folder of the run; it need not exist.
        identity: identifies the run (see `identity.as_identity`).
        overwrite: True if the run may replace the files of another run, or its own.
        of_comparison: True for a run of a comparison, which takes no --overwrite_output_dir.

    Returns:
        The result, if this run has already finished in the folder and `overwrite` is False; else None.

    Raises:
        ValueError: if `overwrite` is False and the folder holds another run, or files that the run would replace but
            that no run has written.
    """
    if overwrite:
        return None
    replacing = "delete this folder" if of_comparison else "give --overwrite_output_dir"
    choice = f"To keep that, choose another --output_dir; to replace it, {replacing}."
    other = read_identity(folder)
    found = [name for name in (*_files_of(identity, other), *RUN_PARTIALS) if os.path.lexists(folder / name)]
    checkpoints = own_checkpoints(folder)
    foreign = [str(path.relative_to(folder)) for path in _foreign_checkpoints(folder)]
    if other is None:
        foreign += [name for name in found if name != CARD]
    method = find_method(identity["method"], identity.get(TASK, CLASSIFICATION))
    if CARD in found and not (other and ADAPTER_WEIGHTS in found) and method.leaves_adapter:
        foreign.append(CARD)
    if foreign:
        raise ValueError(
            f"{folder} holds {', '.join(foreign)}, which this run would replace, but which no run has written, or "
            f"the {RUN} of that run is missing or damaged. {choice}"
        )
    if other is None or not (checkpoints or RESULT in found or set(LEARNED) & set(found)):
        return None  # there is no run, or it failed and saved nothing
    if differing := differences(other, identity):
        raise ValueError(f"{folder} holds another run ({differing}). {choice}")
    return read_result(folder)


def _files_of(*identities: Optional[dict[str, Any]]) -> list[str]:
    """The files that runs may write, in the order of deletion. Only runs of detection write `EXAMPLES`."""
    tasks = {identity.get(TASK, CLASSIFICATION) for identity in identities if identity is not None}
    return [name for name in RUN_FILES if name != EXAMPLES or DETECTION in tasks]


def read_identity(folder: Path) -> Optional[dict[str, Any]]:
    """
    Read the identity of the run that has written a folder.

    Args:
        folder: the folder of a run or of a checkpoint.

    Returns:
        The identity; None if `run.json` is missing or damaged, or was not written by a run.
    """
    try:
        identity = read_json(folder / RUN)
    except (OSError, ValueError):
        return None
    return identity if is_identity(identity) else None


def own_checkpoints(folder: Path) -> list[Path]:
    """
    List the complete checkpoints of a run.

    Args:
        folder: the folder of the run.

    Returns:
        Their folders, the last at the end.
    """
    found = (folder / CHECKPOINTS).glob("step_*")
    return sorted(path for path in found if _CHECKPOINT.fullmatch(path.name) and (path / RUN).is_file())


def _foreign_checkpoints(folder: Path) -> list[Path]:
    """What no run has written, but has the name that a run will use."""
    checkpoints = folder / CHECKPOINTS
    if checkpoints.exists() and not checkpoints.is_dir():
        return [checkpoints]
    named = [path for path in checkpoints.glob("step_*") if _CHECKPOINT.fullmatch(path.name.removesuffix(PARTIAL))]
    return [path for path in named if not ((path / RUN).is_file() or _is_just_begun(path))]


def _is_just_begun(checkpoint: Path) -> bool:
    """True for a partial checkpoint into which not even the identity of its run was written."""
    return checkpoint.name.endswith(PARTIAL) and {path.name for path in checkpoint.iterdir()} <= {RUN + PARTIAL}


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """
    Lock a folder against other processes while the context is open.

    Args:
        folder: the folder; it is created if needed, and removed if it is empty at the end.

    Raises:
        InUse: if another process has locked the folder.
        ValueError: if the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file = folder / LOCK
    held, holder = FileLock(file), ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holder = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        if holder and not holder.startswith(HOLDER):
            raise ValueError(f"{file} is not the lock of a run. Choose another folder, or remove this file.")
        held.acquire(timeout=0)
        file.write_text(f"{HOLDER}{os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    except Timeout as error:
        name = holder.removeprefix(HOLDER)
        raise InUse(
            f"Another process{name and f' ({name})'} is using {folder}. Wait until it ends, or stop it."
        ) from error
    except OSError as error:
        _unlock(held, made)
        raise ValueError(f"{folder} cannot be written: {error}. Choose another folder.") from error
    try:
        yield
    finally:
        _unlock(held, made)


def is_in_use(folder: Path) -> bool:
    """
    Check whether a process has locked a folder.

    Args:
        folder: the folder; it need not exist.

    Returns:
        True if a process has it.
    """
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # it cannot be written, which the run itself says
        return False


def _unlock(held: FileLock, made: list[Path]) -> None:
    if held.is_locked:
        Path(held.lock_file).unlink(missing_ok=True)
    held.release()
    _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # the first that holds something
        for folder in folders:
            folder.rmdir()


@contextmanager
def start(folder: Path, identity: dict[str, Any], overwrite: bool = False, tracking: str = TRACKING) -> Iterator[None]:
    """
    Write the identity of a run to `run.json`, and delete what a killed run has left incomplete.

    If the context ends with an error before anything was saved, `run.json` is deleted.

    Args:
        folder: the folder of the run, which the caller has locked.
        identity: identifies the run (see `identity.as_identity`).
        overwrite: True to delete the files of a previous run first. Other files are kept.
        tracking: the subfolder of the trackers that write files.
    """
    written = _files_of(read_identity(folder))
    previous = [name for name in written if name not in (CARD, EXAMPLES) and os.path.lexists(folder / name)]
    if overwrite and previous:
        drop_checkpoints(folder)
        _drop_tracking(folder / tracking)
        for name in written:
            (folder / name).unlink(missing_ok=True)
    sweep_leftovers(folder)
    try:
        write_json(folder / RUN, as_identity(identity))
        yield
    except BaseException:
        with suppress(OSError):  # what cannot be deleted now is deleted when the run starts again
            sweep_leftovers(folder)
            left = [name for name in _files_of(identity) if name not in (CARD, RUN) and (folder / name).exists()]
            if not own_checkpoints(folder) and not left:
                (folder / RUN).unlink()
        raise


@contextmanager
def hold(folder: Path, identity: dict[str, Any], overwrite: bool = False) -> Iterator[None]:
    """
    Lock a folder for a run while the context is open, and start the run in it.

    Args:
        folder: the folder of the run; it is created if needed.
        identity: identifies the run (see `identity.as_identity`).
        overwrite: True to delete the files of a previous run first. Other files are kept.

    Raises:
        ValueError: if another process has locked the folder, or if `overwrite` is False and the folder holds the
            result of this run or files of another run.
    """
    with lock(folder):
        if claim(folder, identity, overwrite) is not None:
            raise ValueError(
                f"{folder} already holds the result of this run. Choose another folder, or delete this one."
            )
        with start(folder, identity, overwrite):
            yield


def drop_checkpoints(folder: Path) -> None:
    """
    Delete all checkpoints of a run. What no run has written is kept.

    Args:
        folder: the folder of the run.
    """
    for checkpoint in own_checkpoints(folder):
        discard(checkpoint)
    sweep_leftovers(folder)


def discard(checkpoint: Path) -> None:
    """
    Delete a checkpoint. It is renamed first, so that a kill leaves no incomplete checkpoint that looks complete.

    Args:
        checkpoint: its folder.
    """
    partial = checkpoint.with_name(checkpoint.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    os.replace(checkpoint, partial)
    _delete_partial(partial)


def _delete_partial(checkpoint: Path) -> None:
    """Delete a partial checkpoint. `run.json` comes last, because it shows that a run has written the folder."""
    for path in checkpoint.iterdir():
        if path.name != RUN:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(checkpoint)


def sweep_leftovers(folder: Path) -> None:
    """
    Delete what a killed run has left incomplete: partial checkpoints and files, and an empty folder of checkpoints.

    Args:
        folder: the folder of the run.
    """
    for partial in (folder / CHECKPOINTS).glob(f"*{PARTIAL}"):
        if _CHECKPOINT.fullmatch(partial.stem) and ((partial / RUN).is_file() or _is_just_begun(partial)):
            _delete_partial(partial)
    _remove_empty([folder / CHECKPOINTS])
    shutil.rmtree(folder / LEARNED_PARTIAL, ignore_errors=True)
    for name in (RUN, RESULT, CARD, EXAMPLES):
        (folder / (name + PARTIAL)).unlink(missing_ok=True)


def _drop_tracking(folder: Path) -> None:
    """Delete the events that TensorBoard's tracker wrote, and the folders that are empty then."""
    for file in [*folder.rglob("events.out.tfevents.*"), *folder.rglob("hparams.yml")]:
        file.unlink()
    folders = [path for path in folder.rglob("*") if path.is_dir()]
    for path in sorted([*folders, folder], reverse=True):
        _remove_empty([path])
