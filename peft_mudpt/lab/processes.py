"""Runs scripts in processes that stay for the next script, and that end if this process is told to end."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, Optional


SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
GRACE = 10  # seconds that a process has to end before it is killed
PAUSE = 0.05  # seconds between two looks at the signals
PROMPT = "$ "  # in a log, the command follows it, and its output follows the command
WORKER = Path(__file__).with_name("worker.py")


def run_each(
    script: Path,
    flags: Sequence[list[str]],
    logs: Sequence[Path],
    environments: Sequence[Mapping[str, str]],
    ended: Callable[[int, int], None],
) -> None:
    """
    Run a script several times, in worker processes that each run it again and again.

    A run that ends its process, such as one that is killed, costs this run only: the next one gets a new process. If
    this process is interrupted or terminated, it ends the workers before it ends itself.

    Args:
        script: path of the script.
        flags: the command-line arguments of each run.
        logs: the log of each run, to which its output is appended.
        environments: the environment variables of each worker.
        ended: called with the index and the exit status of each run that has ended.

    Raises:
        KeyboardInterrupt: if the user interrupts this process.
        SystemExit: if this process is terminated in another way.
    """
    workers = [Worker(environment) for environment in environments]
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(index: int) -> int:
        worker = idle.get()
        try:
            return worker.run(script, flags[index], logs[index])
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(len(workers))
    with _noted_signals() as noted:
        waiting: dict[Future[int], int] = {pool.submit(run, index): index for index in range(len(flags))}
        try:
            while waiting and not noted:
                for future in wait(waiting, PAUSE, FIRST_COMPLETED).done:
                    ended(waiting.pop(future), future.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            end(workers, at_once=bool(noted or waiting))
    if noted:
        raise (
            KeyboardInterrupt("interrupted; the same command goes on")
            if noted[0] == signal.SIGINT
            else SystemExit(128 + noted[0])
        )


class Worker:
    """
    A process that runs scripts one after another (see `worker`). It has its own process group.

    Args:
        environment: environment variables of the process.
    """

    def __init__(self, environment: Mapping[str, str]):
        self.environment = environment
        self.process: Optional[subprocess.Popen] = None
        self.was_ended = False
        self.lock = threading.Lock()  # so that no process starts while the workers are ended

    def run(self, script: Path, flags: Sequence[str], log: Path) -> int:
        """
        Run a script, and wait for its end. If the script ends the process, the log says how.

        Args:
            script: path of the script.
            flags: its command-line arguments.
            log: the file to which the command and its output are appended.

        Returns:
            The exit status of the script, or of the process if the script has ended it; then never 0.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{PROMPT}{shlex.join([sys.executable, str(script), *flags])}\n")
            file.flush()
            process = self._started(file)
        request = json.dumps({"script": str(script), "flags": list(flags), "log": str(log)})
        with suppress(BrokenPipeError):
            print(request, file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if answer:
            return int(answer)
        self.process = None
        status = _wait(process)
        if not self.was_ended:
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"\n{script.name}: error: {_how_it_ended(status)}\n")
        return status or 1

    def end(self, at_once: bool) -> None:
        """Tell the process to end: at once, or if it has no script to run."""
        with self.lock:
            self.was_ended = True
            if self.process is not None and at_once:
                _signal(self.process, signal.SIGTERM)
            elif self.process is not None:
                self.process.stdin.close()

    def _started(self, log: IO[str]) -> subprocess.Popen:
        with self.lock:
            if self.was_ended:
                raise RuntimeError("The worker was told to end.")
            if self.process is None:
                serve = f"import runpy; runpy.run_path({str(WORKER)!r}, run_name='__main__')"
                self.process = subprocess.Popen(
                    [sys.executable, "-c", serve],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=self.environment,
                    start_new_session=True,
                )
            return self.process


def end(workers: Sequence[Worker], at_once: bool) -> None:
    """
    End workers and the processes that they have started. One that goes on for `GRACE` seconds is killed.

    Args:
        workers: the workers.
        at_once: True to end them in the middle of a run; False if they have none.
    """
    for worker in workers:
        worker.end(at_once)
    deadline = time.monotonic() + GRACE
    for process in [worker.process for worker in workers if worker.process is not None]:
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
        _wait(process)


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
def stopped_by_signals() -> Iterator[None]:
    """
    While this context is open, SIGTERM and SIGHUP stop the script as Ctrl-C does. Further signals are ignored, so that
    the script ends in order.

    Raises:
        KeyboardInterrupt: when the first signal arrives.
    """

    def stop(number: int, frame: object) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    with _handled(stop):
        yield


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Note the signals that would end this process, instead of ending it."""
    noted: list[int] = []
    with _handled(lambda number, frame: noted.append(number)):
        yield noted


@contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle the signals that would end this process, while this context is open in its main thread."""
    if threading.current_thread() is not threading.main_thread():  # no other thread can handle signals
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _wait(process: subprocess.Popen) -> int:
    """Wait for the end of a process, close the pipes to it, and return its exit status."""
    with suppress(BrokenPipeError), process:
        process.wait()
    return process.returncode


def _how_it_ended(status: int) -> str:
    """Say how a process ended that gave no answer."""
    if status >= 0:
        return f"its process ended with the exit code {status}."
    names = {each.value: each.name for each in signal.Signals}
    name = names.get(-status, f"signal {-status}")
    why = ", as the system does if memory is short" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{why}."


def _signal(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a process and to those that it has started."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.terminate()
