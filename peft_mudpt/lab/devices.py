"""Divides the cores and GPUs of this machine among the workers of a sweep."""

from __future__ import annotations

import os
from typing import Optional

import torch

from .data.workers import usable_cores
from .flags import at_least


JOBS_ON_CPU = 2
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def gpus() -> list[str]:
    """
    List the GPUs that this process may use.

    Returns:
        Their names in the variable `CUDA_VISIBLE_DEVICES`; empty without a GPU.
    """
    if not torch.cuda.is_available():
        return []
    named = [name.strip() for name in os.environ.get(VISIBLE_GPUS, "").split(",") if name.strip()]
    return named or [str(index) for index in range(torch.cuda.device_count())]


def worker_environments(jobs: Optional[int]) -> list[dict[str, str]]:
    """
    Choose the environment variables of the workers of a sweep.

    Args:
        jobs: number of workers on each GPU or, without a GPU, on the machine. None: one on each GPU, or `JOBS_ON_CPU`
            without a GPU.

    Returns:
        The variables of each worker: those of this process, the GPU that the worker uses, and the number of threads,
        so that all workers together use each core once.

    Raises:
        ValueError: if `jobs` is less than 1.
    """
    at_least(1).check(1 if jobs is None else jobs, "--jobs")
    places = [{VISIBLE_GPUS: gpu} for gpu in gpus() for _ in range(jobs or 1)]
    places = places or [{} for _ in range(jobs or JOBS_ON_CPU)]
    threads = {"OMP_NUM_THREADS": str(max(1, usable_cores() // len(places)))}
    return [{**os.environ, **threads, **place} for place in places]
