"""Measures the time and the peak memory of a case, in the process that calls it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

import torch
from accelerate import Accelerator

from ..environment import keep_freed_memory, peak_memory_bytes, reset_peak_memory
from .banks import ways_to_build
from .cases import Case
from .detectors import DetectorCase


LEAST_ROUNDS = 3


def seconds_of(
    case: Union[Case, DetectorCase], ways: Sequence[str], device: str, seconds_per_way: float
) -> dict[str, list[float]]:
    """
    Time the steps of a case. As in a run, this process keeps freed memory from now on.

    Args:
        case: the case.
        ways: some of its ways.
        device: "cpu" or "cuda".
        seconds_per_way: see `seconds_in_turns`.

    Returns:
        As `seconds_in_turns`.
    """
    keep_freed_memory(torch.device(device))
    return seconds_in_turns(case.steps(ways, device), seconds_per_way)


def seconds_of_bank(model: str, pictures: int, device: str, seconds_per_way: float) -> dict[str, list[float]]:
    """
    Time the ways of `banks.ways_to_build`, as `seconds_of` does those of a case.

    Args:
        model: one of `cases.MODELS`.
        pictures: number of pictures.
        device: "cpu" or "cuda".
        seconds_per_way: see `seconds_in_turns`.

    Returns:
        For each way, the seconds of each turn.
    """
    keep_freed_memory(torch.device(device))
    return seconds_in_turns(ways_to_build(model, pictures, device), seconds_per_way)


def seconds_in_turns(steps: Mapping[str, Callable[[], Any]], seconds_per_way: float) -> dict[str, list[float]]:
    """
    Time several ways in turns, so that other load on the machine affects all of them equally.

    Args:
        steps: for each way, a function that runs one step.
        seconds_per_way: each step is repeated until it has taken this many seconds, and at least three times.

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


def peak_of(case: Union[Case, DetectorCase], way: str, device: str) -> int:
    """
    Measure the peak memory of one step, including the model.

    Args:
        case: the case.
        way: one of its ways.
        device: "cpu" or "cuda".

    Returns:
        The peak in bytes: of allocated memory on a GPU, or of the resident memory of this process on a CPU.
    """
    accelerator = Accelerator(cpu=device == "cpu")
    reset_peak_memory(accelerator)
    case.steps([way], device)[way]()
    return peak_memory_bytes(accelerator)


def _timed(step: Callable[[], Any]) -> float:
    _wait_for_device()
    started = time.perf_counter()
    step()
    _wait_for_device()
    return time.perf_counter() - started


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
