"""Runs as tasks of a Ray cluster of two machines, which are two processes here."""

import os
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest

from peft_mudpt.lab.jobs import JobOptions


if find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)

import ray
from ray.cloudpickle import register_pickle_by_value, unregister_pickle_by_value
from ray.cluster_utils import Cluster

import peft_mudpt
from peft_mudpt.lab import ray_engine


# Ray's own cluster for tests leaves files open
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SCRIPT = """
import os, sys, time, ray
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--output_dir", -2) + 1])
number = int(sys.argv[1])
print("number", number, os.environ["OMP_NUM_THREADS"], ray.get_runtime_context().get_node_id(), Path.cwd())
if number < 2:  # both run at the same time, for which one machine has not enough cores
    Path(f"{number} is here").touch()
    while not Path(f"{1 - number} is here").exists():
        time.sleep(0.01)
if number == 2:
    raise ValueError("out of paint")
if number == 3 and not Path("was_killed").exists():
    Path("was_killed").touch()
    os.kill(os.getpid(), 9)
folder.mkdir(exist_ok=True)
(folder / "result.txt").write_text(f"result {number}")
"""
RUNS = range(4)


@pytest.fixture(scope="module")
def cluster():
    os.environ.update(dict.fromkeys(ray_engine.SETTINGS, "0"))
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    machines.add_node(num_cpus=1)
    ray.init(address=machines.address, log_to_driver=False, logging_level="error")
    register_pickle_by_value(peft_mudpt)  # or else each worker would import torch, only to find the task
    yield machines
    unregister_pickle_by_value(peft_mudpt)
    ray.shutdown()
    machines.shutdown()


def run_all(folder: Path) -> dict[int, int]:
    """Run the script four times, and return the exit statuses."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    folders = [folder / "runs" / str(number) for number in RUNS]
    flags = [[str(number), "--output_dir", str(own)] for number, own in enumerate(folders)]
    statuses: dict[int, int] = {}
    logs = [own / "log.txt" for own in folders]
    JobOptions(engine="ray").run_each(script, flags, logs, statuses.__setitem__)
    return statuses


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["shared folder", "files sent back"])
def test_the_runs_are_divided_among_the_machines_and_a_lost_one_is_repeated(cluster, tmp_path, monkeypatch, shared):
    monkeypatch.chdir(tmp_path)
    if not shared:  # as seen from another machine
        monkeypatch.setattr(ray_engine, "_mark", lambda folder: nullcontext(folder / "not there"))
    assert run_all(tmp_path) == {0: 0, 1: 0, 2: 1, 3: 0}
    logs = {number: (tmp_path / "runs" / str(number) / "log.txt").read_text() for number in RUNS}
    words = {number: log.splitlines()[-1 if number != 2 else 1].split() for number, log in logs.items()}
    assert {tuple(found[:3]) for found in words.values()} == {("number", str(number), "1") for number in RUNS}
    assert len({words[number][3] for number in (0, 1)}) == 2
    assert {found[4] for found in words.values()} == {str(tmp_path)}
    assert logs[2].splitlines()[-1] == "ValueError: out of paint" and logs[2].startswith("$ ")
    results = {number: (tmp_path / "runs" / str(number) / "result.txt") for number in RUNS}
    assert {number: path.read_text() for number, path in results.items() if path.exists()} == {
        number: f"result {number}" for number in RUNS if number != 2
    }
    assert not list(tmp_path.rglob(".*")), "the mark is removed"


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"peft_mudpt\[cluster\]"):
        run_all(tmp_path)
