"""Processes with limits: what stops them, what is said of them, and that nothing of them goes on."""

import base64
import pickle
import subprocess
import sys

import psutil
import pytest

from peft_mudpt.lab.cost import child
from peft_mudpt.lab.cost.cases import OURS, TRAINING, Case
from peft_mudpt.lab.cost.limits import Limits, Stopped, in_child, run_within
from peft_mudpt.lab.cost.measuring import peak_of


AMPLE = Limits(memory=4 * 10**9, seconds=60)
LITTLE = Limits(memory=200_000_000, seconds=60)
TOO_MUCH = "x = b'1' * 300_000_000; input(); input()"


def run(code, limits=AMPLE):
    return run_within([sys.executable, "-c", code], b"a line", limits)


def processes():
    return {process.pid for process in psutil.Process().children(recursive=True)}


def test_a_command_gets_a_line_and_its_output_is_returned():
    assert run("print(input())").strip() == "a line"


@pytest.mark.parametrize(
    ("code", "limits", "said"),
    [
        (TOO_MUCH, LITTLE, "took more than the 0.2 GB"),
        ("import time; time.sleep(60)", Limits(10**9, 0.3), "took longer than 0.005 minutes"),
        ("import os; os.kill(os.getpid(), 9)", AMPLE, "killed by SIGKILL.* memory"),
        ("import os; os.kill(os.getpid(), 15)", AMPLE, "killed by SIGTERM$"),
        ("bytearray(2**60)", AMPLE, "ended with: MemoryError"),
        ("raise RuntimeError('CUDA out of memory. Tried')", AMPLE, "ended with: RuntimeError: CUDA out of memory"),
        ("import sys; sys.exit(3)", AMPLE, "status 3"),
    ],
)
def test_a_command_that_is_stopped_or_ends_with_an_error_says_why(code, limits, said):
    before = processes()
    with pytest.raises(Stopped, match=said):
        run(code, limits)
    assert processes() == before


def test_the_memory_of_processes_that_a_command_starts_counts(monkeypatch):
    monkeypatch.setattr("peft_mudpt.lab.cost.limits.TREE_PAUSE", 0)
    before = processes()
    with pytest.raises(Stopped, match="more than the 0.2 GB"):
        run(f"import subprocess, sys; subprocess.run([sys.executable, '-c', \"{TOO_MUCH}\"])", LITTLE)
    assert processes() == before


def test_an_interrupt_ends_the_command_too(monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("peft_mudpt.lab.cost.limits.time.sleep", interrupt)
    before = processes()
    with pytest.raises(KeyboardInterrupt):
        run("input(); input()")
    assert processes() == before


@pytest.mark.slow
def test_a_function_is_called_in_a_process_of_its_own_and_its_answer_returned():
    assert 1e8 < in_child(peak_of, {"case": Case("tiny", TRAINING, 3, 2), "way": OURS, "device": "cpu"}, AMPLE) < 2e9


def test_a_child_and_the_processes_that_it_has_started_end_when_its_parent_has_ended():
    sleeps = [sys.executable, "-c", "import time; print('started', flush=True); time.sleep(60)"]
    call = subprocess.run, {"args": sleeps}
    process = subprocess.Popen([sys.executable, child.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(base64.b64encode(pickle.dumps(call)) + b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"started\n"
    grandchildren = psutil.Process(process.pid).children()
    process.stdin.close()
    assert process.wait(timeout=30) == 1
    assert grandchildren and not psutil.wait_procs(grandchildren, timeout=30)[1]
    process.stdout.close()
