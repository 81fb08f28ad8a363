"""How it is measured: times in turns in one process, peak memory in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from accelerate import Accelerator

from ..environment import peak_memory_bytes, reset_peak_memory
from .cases import Case, build_model, way_to_run


# Freed blocks go back to the system at once: what is measured is memory in use, not the C library's fragmentation.
UNFRAGMENTED = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_MMAP_MAX_": "1000000"}
LEAST_ROUNDS = 2


def seconds_in_turns(steps: dict[str, Callable[[], None]], seconds_per_way: float) -> dict[str, list[float]]:
    """
    Time several ways in turns, so that what the machine does besides falls on all of them.

    Args:
        steps: by way, what is timed.
        seconds_per_way: each is timed again until it has taken so long; twice at least.

    Returns:
        By way the seconds of each step, in order.
    """
    # The first turn is for nothing (allocations, compilation, what is remembered), but where this is little beside it.
    first = {way: _timed(step) for way, step in steps.items()}
    times = {way: [seconds] if seconds > seconds_per_way > 0 else [] for way, seconds in first.items()}
    while True:
        due = [way for way, t in times.items() if len(t) < LEAST_ROUNDS or sum(t) < seconds_per_way]
        if not due:
            return times
        for way in due:
            times[way].append(_timed(steps[way]))


def peak_memory_of(way: str, case: Case, device: str) -> int:
    """The most bytes that were in use in a step: allocated on a GPU, or resident in a process of its own."""
    if device != "cpu":
        return _peak_memory_here(way, case, device)
    command = [sys.executable, "-m", __name__, way, json.dumps(asdict(case)), device]
    ran = subprocess.run(command, env={**os.environ, **UNFRAGMENTED}, stdout=subprocess.PIPE, text=True, check=True)
    return int(ran.stdout.split()[-1])


def _peak_memory_here(way: str, case: Case, device: str) -> int:
    accelerator = Accelerator(cpu=device == "cpu")
    reset_peak_memory(accelerator)
    way_to_run(way, case, build_model(case.model, way, device))()
    return peak_memory_bytes(accelerator)


def _timed(step: Callable[[], None]) -> float:
    _wait_for_device()
    started = time.perf_counter()
    step()
    _wait_for_device()
    return time.perf_counter() - started


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(_peak_memory_here(sys.argv[1], Case(**json.loads(sys.argv[2])), sys.argv[3]))
