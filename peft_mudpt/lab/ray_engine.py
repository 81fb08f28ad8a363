"""Runs a script several times as tasks of a Ray cluster."""

from __future__ import annotations

import io
import os
import shlex
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ..optional import require
from .processes import PROMPT
from .worker import run


RETRIES = 3  # of a run whose worker or machine was lost; it resumes from its last checkpoint if the folder is shared
FOLDER_FLAG = "--output_dir"
# Unless they are 0, Ray reports statistics to its makers, and warns that it will show GPUs to tasks without one.
SETTINGS = ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")


class Ended(NamedTuple):
    """What a task sends back."""

    status: int  # the exit status of the script
    files: Optional[bytes]  # an archive of the folder of the run; None: the folder is shared


def run_each_on_ray(
    script: Path,
    flags: Sequence[list[str]],
    logs: Sequence[Path],
    ended: Callable[[int, int], None],
    cpus: int = 1,
    gpus: Optional[float] = None,
) -> None:
    """
    Run a script several times, each in a task of the Ray cluster that `RAY_ADDRESS` names or that runs on this
    machine, or else in one that is started here.

    A task writes to the folder of its run if its machine sees it. Otherwise the files come back through Ray's object
    store. Everything else that the flags name, such as pictures, must lie at the same place on each machine.

    Args:
        script: path of the script.
        flags: the command-line arguments of each run. The last --output_dir is the folder of the run.
        logs: the log of each run, to which its output is appended.
        ended: called with the index and the exit status of each run that has ended; 1 if its machine was lost.
        cpus: cores of a task.
        gpus: GPUs of a task; None: 1 if the cluster has GPUs, else 0.

    Raises:
        ImportError: if Ray is not installed.
        KeyboardInterrupt: if the user interrupts this process. The tasks are ended first.
    """
    folder = Path(os.path.commonpath([log.resolve().parent for log in logs] or ["."]))
    with _connected() as ray, _mark(folder) as mark:
        if gpus is None:
            gpus = float(ray.cluster_resources().get("GPU", 0) >= 1)
        environment = {"env_vars": {"OMP_NUM_THREADS": str(cpus)}}
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, runtime_env=environment)(run_task)
        shared = script.name, script.read_text(encoding="utf-8"), str(mark), os.getcwd()
        waiting = {
            task.remote(*shared, own, str(log.resolve())): index for index, (own, log) in enumerate(zip(flags, logs))
        }
        try:
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                index = waiting.pop(done)
                ended(index, _status(ray, done, logs[index]))
        finally:
            for left in waiting:
                ray.cancel(left, force=True)


def run_task(name: str, text: str, mark: str, place: str, flags: Sequence[str], log: str) -> Ended:
    """
    Run a script on a machine of the cluster.

    Args:
        name: name of the script.
        text: its text, because it may not lie on this machine.
        mark: a file that exists if this machine sees the folder of the results.
        place: the working folder, in which relative paths in the flags are looked up.
        flags: the command-line arguments.
        log: the log of the run.

    Returns:
        The exit status, and the files of the run if this machine does not see the folder.
    """
    is_shared = os.path.exists(mark)
    with tempfile.TemporaryDirectory() as temporary, _restored():
        if os.path.isdir(place):
            os.chdir(place)
        script = Path(temporary, name)
        script.write_text(text, encoding="utf-8")
        folder = Path(log).parent if is_shared else Path(temporary, "run")
        folder.mkdir(parents=True, exist_ok=True)
        own = list(flags) if is_shared else [*flags, FOLDER_FLAG, str(folder)]  # the last of equal flags counts
        with open(folder / Path(log).name, "a", encoding="utf-8") as file:
            file.write(f"{PROMPT}{shlex.join([sys.executable, name, *own])}\n")
        status = run(str(script), own, str(folder / Path(log).name))
        return Ended(status, None if is_shared else _packed(folder))


@contextmanager
def _connected() -> Iterator[Any]:
    """Connect to a cluster, or start one. Yields the module of Ray."""
    for name in SETTINGS:
        os.environ.setdefault(name, "0")
    require("--engine ray", "cluster", "ray")

    import ray

    if ray.is_initialized():
        yield ray
        return
    ray.init(log_to_driver=False, logging_level="error", include_dashboard=False)
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _mark(folder: Path) -> Iterator[Path]:
    """A file in a folder, by which another machine tells whether it sees the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".{uuid.uuid4().hex}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


@contextmanager
def _restored() -> Iterator[None]:
    """Give the process its output, its arguments and its working folder back, because Ray uses it again."""
    place, arguments, path = os.getcwd(), sys.argv, list(sys.path)
    streams = {stream: os.dup(stream) for stream in (1, 2)}
    try:
        yield
    finally:
        for stream, kept in streams.items():
            os.dup2(kept, stream)
            os.close(kept)
        os.chdir(place)
        sys.argv, sys.path[:] = arguments, path


def _packed(folder: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(folder, ".")
    return content.getvalue()


def _status(ray: Any, task: Any, log: Path) -> int:
    """The exit status of a task, whose files are put beside its log if they were sent."""
    try:
        status, files = ray.get(task)
    except ray.exceptions.RayError as error:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}\n")
        return 1
    if files is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(files)) as archive:
            archive.extractall(log.parent, filter="data")
    return status
