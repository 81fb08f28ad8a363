"""Chooses the number of processes that read pictures while the model computes."""

from __future__ import annotations

import os
from typing import Optional

from accelerate import Accelerator

from ...rules import NOT_NEGATIVE


MOST = 16  # beyond it, what the workers have read ahead takes memory, and no model is so fast


def choose_workers(asked: Optional[int], device_type: str, processes: int = 1) -> int:
    """
    Choose the number of processes that read pictures for one process with a model.

    On an accelerator they are all cores but one, which feeds the model. On a CPU they are half of the cores, because
    the model needs cores, too.

    Args:
        asked: the number that the user asked for, which is taken; None: choose.
        device_type: where the model computes, such as "cpu" or "cuda".
        processes: number of processes with a model on this machine, which share its cores.

    Returns:
        The number: `asked`, or from 1 to `MOST`.

    Raises:
        ValueError: if `asked` is negative.
    """
    if asked is not None:
        NOT_NEGATIVE.check(asked, "num_workers")
        return asked
    cores = usable_cores() // processes
    return min(MOST, max(1, cores // 2 if device_type == "cpu" else cores - 1))


def processes_here(accelerator: Accelerator) -> int:
    """
    Count the processes on this machine that share a run.

    Args:
        accelerator: the accelerator of the run.

    Returns:
        The number, at least 1; if the launcher does not tell it, that of all machines.
    """
    return int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))


def usable_cores() -> int:
    """
    Count the cores that this process may use, which can be fewer than those of the machine.

    Returns:
        The number, at least 1.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
