"""Runs a function in a process of its own, and stops it where it would take too much memory or time."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Any, Optional

import psutil
import torch

from ...classifier.memory import free_bytes


MOST_OF_MEMORY = 0.9  # largest share of the free memory that a process may take
PAUSE = 0.05  # seconds between two looks; a process that allocates as fast as it can takes about 0.2 GB in that time
TREE_PAUSE = 1.0  # seconds between two searches for processes that it has started; a search takes milliseconds
CHILD = "peft_mudpt.lab.cost.child"


@dataclass(frozen=True)
class Limits:
    """
    The limits of a process and of those that it starts, together.

    Args:
        memory: bytes of resident memory.
        seconds: seconds since its start.
    """

    memory: int
    seconds: float


class Stopped(RuntimeError):
    """A process that ended without an answer. The message gives the reason, after "it"."""


def usable_bytes(device: str) -> int:
    """
    Measure how much memory of a device a process may take.

    Args:
        device: "cpu" or "cuda".

    Returns:
        `MOST_OF_MEMORY` of the bytes that are free now, in this process' container if it is in one.
    """
    free = free_bytes(torch.device(device))
    assert free is not None  # it is known for these devices
    return int(MOST_OF_MEMORY * free)


def in_child(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    limits: Limits,
    environment: Optional[Mapping[str, str]] = None,
) -> Any:
    """
    Call a function in a fresh process.

    Args:
        function: a function of a module.
        arguments: its arguments, by name; they are pickled.
        limits: the limits of the process.
        environment: environment variables that the process gets besides those of this one.

    Returns:
        What the function returned, through JSON.

    Raises:
        Stopped: if the process was beyond a limit, was killed, or ended with an error. Nothing of it goes on.
    """
    call = base64.b64encode(pickle.dumps((function, dict(arguments))))
    output = run_within([sys.executable, "-m", CHILD], call, limits, environment)
    return json.loads(output.splitlines()[-1])


def run_within(
    command: Sequence[str], line: bytes, limits: Limits, environment: Optional[Mapping[str, str]] = None
) -> str:
    """
    Run a command. It and the processes that it starts are killed once they are beyond a limit.

    Args:
        command: the command.
        line: a line without its end that the command reads. Its standard input stays open as long as this process
            lives, so that it can tell when this process was killed.
        limits: the limits.
        environment: as in `in_child`.

    Returns:
        What the command printed.

    Raises:
        Stopped: as in `in_child`.
    """
    with TemporaryFile() as output, TemporaryFile() as errors:
        process = psutil.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            with suppress(BrokenPipeError):  # it ended before it read the line; its status says why
                process.stdin.write(line + b"\n")
                process.stdin.flush()
            _watch(process, limits)
        finally:
            _kill(process)
            with suppress(BrokenPipeError):
                process.stdin.close()
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise Stopped(_reason(process.returncode, errors.read().decode(errors="replace")))
        return output.read().decode(errors="replace")


def _watch(process: psutil.Popen, limits: Limits) -> None:
    """Wait for the end of a process. Raises `Stopped` once it is beyond a limit."""
    started = time.monotonic()
    tree, looked_at = [process], started
    while process.poll() is None:
        now = time.monotonic()
        if now - looked_at > TREE_PAUSE:
            tree, looked_at = _tree(process), now
        if sum(map(_resident_bytes, tree)) > limits.memory:
            raise Stopped(f"took more than the {in_words(limits.memory)} that it may take")
        if now - started > limits.seconds:
            raise Stopped(f"took longer than {limits.seconds / 60:.3g} minutes")
        time.sleep(PAUSE)


def _tree(process: psutil.Process) -> list[psutil.Process]:
    """A process that runs, and those that it has started; empty if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def _resident_bytes(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return process.memory_info().rss
    return 0


def _kill(process: psutil.Popen) -> None:
    for each in _tree(process):
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def _reason(status: int, errors: str) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        return f"was killed by {name}" + (", probably because memory was short" if name == "SIGKILL" else "")
    lines = errors.strip().splitlines()
    return f"ended with: {lines[-1]}" if lines else f"ended with status {status} and said nothing"


def in_words(number: float) -> str:
    """
    Write bytes as gigabytes.

    Args:
        number: a number of bytes.

    Returns:
        Words such as "1.2 GB".
    """
    return f"{number / 1e9:.1f} GB"
