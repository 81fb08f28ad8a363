"""How much memory counts as free, and how much of it class texts may take."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from peft_mudpt.classifier import memory
from peft_mudpt.classifier.memory import bytes_for_texts, free_bytes


CPU = torch.device("cpu")
GIB = 2**30
VERSION_2 = ("memory.max", "memory.current", "inactive_file", "")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "memory")


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """24 GiB are available, and there are no cgroups. Returns the folder of the cgroups."""
    monkeypatch.setattr(memory, "_measured", {})
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "CGROUPS_OF_THIS_PROCESS", tmp_path / "own")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    has_available(monkeypatch, 24)
    return tmp_path


def has_available(monkeypatch, gib):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=int(gib * GIB)))


def limit(folder, version, most, used, reclaimable):
    """Limit the memory of a cgroup; `most` may be "max"."""
    folder.mkdir(parents=True, exist_ok=True)
    values = most if most == "max" else most * GIB, used * GIB, f"other 7\n{version[2]} {reclaimable * GIB}"
    for name, value in zip((*version[:2], "memory.stat"), values):
        (folder / name).write_text(f"{value}\n")


@pytest.mark.parametrize(("free", "share"), [(0, 0), (6, 1.5), (24, 6), (2000, 8)])
def test_texts_may_take_a_quarter_but_not_more_than_8_gib(monkeypatch, free, share):
    has_available(monkeypatch, free)
    assert bytes_for_texts(CPU) == share * GIB


def test_it_is_measured_once(monkeypatch):
    first = bytes_for_texts(CPU)
    has_available(monkeypatch, 1)
    assert bytes_for_texts(CPU) == first


def test_of_a_device_whose_memory_is_unknown_they_take_nothing():
    assert free_bytes(torch.device("meta")) is None
    assert bytes_for_texts(torch.device("meta")) == 0


@pytest.mark.parametrize(("processes", "free"), [("4", 6), ("1", 24), ("0", 24), ("", 24), ("many", 24)])
def test_processes_of_one_launch_share_the_memory(monkeypatch, processes, free):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert free_bytes(CPU) == free * GIB


@pytest.mark.parametrize("version", [VERSION_2, VERSION_1], ids=["version 2", "version 1"])
@pytest.mark.parametrize(
    ("above", "own", "free"),
    [
        (("max", 0, 0), (6, 4, 1), 3),
        ((8, 6, 0), (6, 1, 0), 2),
        ((6, 9, 0), (6, 1, 0), 0),
        ((99, 1, 0), ("max", 1, 0), 24),
    ],
)
def test_the_limits_of_a_cgroup_and_those_above_it_hold(machine, version, above, own, free):
    root = machine / version[3]
    limit(root / "above", version, *above)
    limit(root / "above" / "own", version, *own)
    (machine / "own").write_text(f"11:cpu,cpuset:/\n4:{version[3]}:/above/own\n")
    assert free_bytes(CPU) == free * GIB


def test_the_root_counts_if_the_named_cgroup_is_outside_of_the_container(machine):
    limit(machine, VERSION_2, 3, 1, 0)
    (machine / "own").write_text("0::/../../elsewhere\n")
    assert free_bytes(CPU) == 2 * GIB
