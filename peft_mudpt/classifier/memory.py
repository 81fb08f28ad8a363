"""How much memory of a device is free, and how much of it the texts of classes may take."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import psutil
import torch


SHARE = 1 / 4  # images, the optimizer and other programs need the rest
MOST = 2**33
CGROUPS = Path("/sys/fs/cgroup")
CGROUPS_OF_THIS_PROCESS = Path("/proc/self/cgroup")

_measured: dict[torch.device, int] = {}


def bytes_for_texts(device: torch.device) -> int:
    """
    Bytes of a device that the activations of class texts may take in a training step: a quarter of what is free, and
    at most 8 GiB; 0 if that is unknown. It is measured when it is first asked for, once per process and device.

    Args:
        device: where the texts are encoded.
    """
    if device not in _measured and not torch.compiler.is_compiling():
        _measured[device] = min(int(SHARE * (free_bytes(device) or 0)), MOST)
    return _measured.get(device, 0)


def free_bytes(device: torch.device) -> Optional[int]:
    """
    Bytes of memory that this process can still allocate on a device; None if that is unknown.

    Processes that `accelerate launch` or `torchrun` has started on this machine share the memory of the CPU equally.
    Memory that PyTorch has reserved on a GPU without using it counts as free.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    free = min([psutil.virtual_memory().available, *_free_in_cgroups()])
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    return free // max(1, int(processes) if processes.isdecimal() else 1)


def _free_in_cgroups() -> Iterator[int]:
    """
    Bytes left to each cgroup of this process that limits its memory, such as a container's, and to those above it.
    `psutil` sees the memory of the whole machine only.
    """
    if not CGROUPS_OF_THIS_PROCESS.exists():  # only Linux has cgroups
        return
    for line in CGROUPS_OF_THIS_PROCESS.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            root, names = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):  # version 1
            root, names = CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / path.strip("/")
        for each in (folder, *folder.parents):
            if each.is_relative_to(root):
                yield from _free_in_cgroup(each, *names)


def _free_in_cgroup(folder: Path, limit: str, usage: str, cached: str) -> Iterator[int]:
    try:
        most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
    except (OSError, ValueError):  # there is no limit ("max"), or the folder is outside of the container
        return
    # files that the system keeps in memory count as used, but make room for others
    files = re.search(rf"^{cached} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
    yield max(0, most - used + (int(files[1]) if files else 0))
