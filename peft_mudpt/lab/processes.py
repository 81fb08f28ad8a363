"""Runs commands in processes of their own, which end if this process is told to end."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
GRACE = 10  # seconds that a process has to end before it is killed
PAUSE = 0.05  # seconds between two looks at the processes
PROMPT = "$ "  # in a log, the command follows it, and its output follows the command


def run_each(
    commands: Sequence[list[str]],
    logs: Sequence[Path],
    jobs: int,
    environment: Mapping[str, str],
    ended: Callable[[int, int], None],
) -> None:
    """
    Run commands, several at a time. Each gets its own process group.

    If this process is interrupted or terminated, it ends the commands before it ends itself.

    Args:
        commands: the commands.
        logs: the log of each command, to which its output is appended.
        jobs: number of commands at a time.
        environment: environment variables of the commands.
        ended: called with the index and the exit status of each command that has ended.

    Raises:
        KeyboardInterrupt: if the user interrupts this process.
        SystemExit: if this process is terminated in another way.
    """
    waiting, running = list(range(len(commands))), {}
    with _noted_signals() as noted:
        try:
            while waiting or running:
                while waiting and len(running) < jobs and not noted:
                    index = waiting.pop(0)
                    running[index] = _start(commands[index], logs[index], environment)
                for index, process in list(running.items()):
                    if process.poll() is not None:
                        del running[index]
                        ended(index, process.returncode)
                if noted:
                    break
                time.sleep(PAUSE)
        finally:
            _end(list(running.values()))
    if noted:
        raise (
            KeyboardInterrupt("interrupted; the same command goes on")
            if noted[0] == signal.SIGINT
            else SystemExit(128 + noted[0])
        )


def last_words(log: Path) -> str:
    """
    Read the error of a command that failed.

    Args:
        log: the log of the command.

    Returns:
        Its message, which begins as argparse's and `terminal.one_line_errors`' do and ends the log; without one, the
        last line; "(empty log)" if the command has printed nothing.
    """
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    for length in range(1, len(lines) + 1):
        if lines[-length].startswith(PROMPT):
            break
        if re.match(r"[\w-]+\.py: error: ", lines[-length]):
            return "\n".join(lines[-length:])
    return lines[-1] if lines and not lines[-1].startswith(PROMPT) else "(empty log)"


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Note the signals that would end this process, instead of ending it. Only a main thread can do that."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.signal(number, lambda number, frame: noted.append(number)) for number in SIGNALS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(command: list[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{PROMPT}{shlex.join(command)}\n")
        file.flush()
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)


def _end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0, deadline - time.monotonic()))
            continue
        _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
        process.wait()


def _signal(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a process and to those that it has started."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.terminate()
