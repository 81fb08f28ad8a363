"""What a result was measured with: packages, hardware, memory."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator


PACKAGES = ("peft_mudpt", "torch", "transformers", "peft", "accelerate", "datasets")


def versions() -> dict[str, str]:
    """The packages a result depends on."""
    return {package: version(package) for package in PACKAGES}


def hardware(accelerator: Accelerator) -> dict[str, Any]:
    """Device, threads per process, processes, precision."""
    device = accelerator.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
    }


def reset_peak_memory(accelerator: Accelerator) -> None:
    """Forget the peak so far, where that can be done: on a GPU."""
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)


def peak_memory_bytes(accelerator: Accelerator) -> int:
    """The most memory that was in use at once: allocated on a GPU, else resident in this process."""
    if accelerator.device.type == "cuda":
        return torch.cuda.max_memory_allocated(accelerator.device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where the other counts the parent's memory, too
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # elsewhere in KiB
