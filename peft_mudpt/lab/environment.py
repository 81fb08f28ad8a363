"""Describes the environment of a run: package versions, hardware, peak memory and random number generators."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import re
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from accelerate import Accelerator


PACKAGES = ("peft_mudpt", "torch", "transformers", "peft", "accelerate", "datasets")
# Options of mallopt, as numbered in GNU's malloc.h, and the variables in which a user sets them.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
KEPT_MEMORY = 2**30  # bytes


def versions() -> dict[str, str]:
    """
    Look up the versions of the packages that a result depends on.

    Returns:
        The version of each package of `PACKAGES`.
    """
    return {package: version(package) for package in PACKAGES}


def hardware(accelerator: Accelerator) -> dict[str, Any]:
    """
    Describe the hardware of a run.

    Args:
        accelerator: the accelerator of the run.

    Returns:
        `device`, `threads` (per process), `processes` and `mixed_precision`.
    """
    device = accelerator.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
    }


def keep_freed_memory(device: torch.device) -> None:
    """
    Let this process keep up to `KEPT_MEMORY` of freed memory for its next tensors.

    GNU's C library returns large blocks to the system as soon as they are freed. The activations of each forward pass
    are then new memory, which the system maps and clears page by page: that takes a fifth of the time in which a
    ViT-B/16 encodes 16 pictures on a CPU. Other C libraries stay as they are.

    Args:
        device: the device of the model. With an accelerator, nothing is changed.
    """
    if device.type != "cpu" or sys.platform != "linux" or any(name in os.environ for name in MALLOC_VARIABLES):
        return
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(M_MMAP_THRESHOLD, KEPT_MEMORY):  # the other one alone would only stop GNU's own adaptation of this
            mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY)


def reset_peak_memory(accelerator: Accelerator) -> None:
    """
    Reset the peak memory of the GPU or, on Linux, of this process, which may have trained another model before.

    Args:
        accelerator: the accelerator of the run.
    """
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    elif sys.platform == "linux":
        gc.collect()
        with suppress(OSError, AttributeError):  # another C library than GNU's returns freed memory itself
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):  # a container may forbid it: the peak then includes what was before
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(accelerator: Accelerator) -> int:
    """
    Read the peak memory so far: since `reset_peak_memory` on a GPU and on Linux, else since the process started.

    Args:
        accelerator: the accelerator of the run.

    Returns:
        The peak in bytes: of the memory that PyTorch allocated on the GPU, or, on a CPU, of the resident memory of
        this process.
    """
    if accelerator.device.type == "cuda":
        return torch.cuda.max_memory_allocated(accelerator.device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss would include memory of the parent process
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes on macOS, KiB elsewhere


class RandomState(NamedTuple):
    """The state of the global random number generators of Python, of numpy, and of torch on the CPU and on GPUs."""

    python: Any
    numpy: Any
    cpu: torch.Tensor
    gpus: list[torch.Tensor]


def random_state() -> RandomState:
    """
    Read the state of the global random number generators.

    Returns:
        The state, to be given to `set_random_state`.
    """
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return RandomState(random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus)


def set_random_state(state: RandomState) -> None:
    """
    Go back to an earlier state of the global random number generators.

    Args:
        state: what `random_state` returned.
    """
    random.setstate(state.python)
    np.random.set_state(state.numpy)
    torch.set_rng_state(state.cpu)
    if state.gpus:
        torch.cuda.set_rng_state_all(state.gpus)
