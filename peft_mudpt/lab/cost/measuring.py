"""Measures time (all ways take turns in one process) and peak memory (on a CPU, in a separate process)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Union

import torch
from accelerate import Accelerator

from ..environment import peak_memory_bytes, reset_peak_memory
from .cases import Case
from .detectors import DetectorCase


KINDS = {kind.__name__: kind for kind in (Case, DetectorCase)}
# With these settings the C library returns freed blocks at once, so that the peak shows memory in use without
# fragmentation.
UNFRAGMENTED = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_MMAP_MAX_": "1000000"}
LEAST_ROUNDS = 2


def seconds_in_turns(steps: dict[str, Callable[[], None]], seconds_per_way: float) -> dict[str, list[float]]:
    """
    Time several ways in turns, so that other load on the machine affects all of them equally.

    Args:
        steps: for each way, a function that runs one step.
        seconds_per_way: each step is repeated until it has taken this many seconds, and at least twice.

    Returns:
        For each way, the seconds of each step in order, without the first step (warm-up) unless that alone takes more
        than `seconds_per_way`.
    """
    # The first turn is warm-up (allocation, compilation, caches) and discarded, unless a step is so slow that warm-up
    # is negligible.
    first = {way: _timed(step) for way, step in steps.items()}
    times = {way: [seconds] if seconds > seconds_per_way > 0 else [] for way, seconds in first.items()}
    while True:
        due = [way for way, t in times.items() if len(t) < LEAST_ROUNDS or sum(t) < seconds_per_way]
        if not due:
            return times
        for way in due:
            times[way].append(_timed(steps[way]))


def peak_memory_of(way: str, case: Union[Case, DetectorCase], device: str) -> int:
    """
    Measure the peak memory of one step, including the model.

    Args:
        way: one of the ways of the case.
        case: the case.
        device: "cpu" or "cuda".

    Returns:
        The peak in bytes: of allocated memory on a GPU, or of the resident memory of a separate process on a CPU.
    """
    if device != "cpu":
        return _peak_memory_here(way, case, device)
    command = [sys.executable, "-m", __name__, way, type(case).__name__, json.dumps(asdict(case)), device]
    ran = subprocess.run(command, env={**os.environ, **UNFRAGMENTED}, stdout=subprocess.PIPE, text=True, check=True)
    return int(ran.stdout.split()[-1])


def _peak_memory_here(way: str, case: Union[Case, DetectorCase], device: str) -> int:
    accelerator = Accelerator(cpu=device == "cpu")
    reset_peak_memory(accelerator)
    case.step(way, device)()
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
    _, way, kind, fields, device = sys.argv
    print(_peak_memory_here(way, KINDS[kind](**json.loads(fields)), device))
