"""The environment of a run: what the C library does with freed memory."""

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from peft_mudpt.lab.environment import (
    KEPT_MEMORY,
    M_MMAP_THRESHOLD,
    M_TRIM_THRESHOLD,
    MALLOC_VARIABLES,
    keep_freed_memory,
)


# prints the page faults of ten tensors of 64 MiB, before and after the call
COUNT_FAULTS = """
import resource
import torch
from peft_mudpt.lab.environment import keep_freed_memory

def faults():
    torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
keep_freed_memory(torch.device("cpu"))
print(faults())
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only GNU's C library keeps memory if told")


@pytest.fixture
def options(monkeypatch) -> list[tuple[int, int]]:
    """The options that GNU's C library is told to change; it is not told."""
    options: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda option, value: options.append((option, value)) or 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    for name in MALLOC_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return options


def test_memory_that_was_freed_is_used_for_the_next_tensors(options):
    # in a process of its own, because the call changes the whole process
    ended = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    before, after = map(int, ended.stdout.splitlines())
    assert after < before / 10


def test_on_a_cpu_large_blocks_are_kept(options):
    keep_freed_memory(torch.device("cpu"))
    assert options == [(M_MMAP_THRESHOLD, KEPT_MEMORY), (M_TRIM_THRESHOLD, KEPT_MEMORY)]


@pytest.mark.parametrize("name", MALLOC_VARIABLES)
def test_options_that_the_user_sets_stay(name, options, monkeypatch):
    monkeypatch.setenv(name, "")
    keep_freed_memory(torch.device("cpu"))
    assert options == []


def test_beside_an_accelerator_nothing_changes(options):
    keep_freed_memory(torch.device("cuda"))
    assert options == []


def test_a_library_that_refuses_one_option_keeps_its_own_rule(options, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *pair: options.append(pair) or 0))
    keep_freed_memory(torch.device("cpu"))
    assert len(options) == 1
