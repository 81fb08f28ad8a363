"""What the scripts write to a terminal."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from peft_mudpt.lab import terminal
from peft_mudpt.lab.terminal import DIVERGED, INTERRUPTED, LAUNCHED_BY_ACCELERATE, one_line_errors, printable


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def ended(monkeypatch, capsys):
    """End a script by an error. Returns its exit code and what it wrote to stderr."""
    monkeypatch.setattr(sys, "argv", ["some/where/fewshot.py"])
    for name in ("TORCHELASTIC_ERROR_FILE", "RANK", LAUNCHED_BY_ACCELERATE):
        monkeypatch.delenv(name, raising=False)

    def ended(error, *more):
        with pytest.raises(SystemExit) as end, one_line_errors(*more):
            raise error
        return end.value.code, capsys.readouterr().err

    return ended


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("--shots 0 is too small."), 2, "error: --shots 0 is too small."),
        (FileNotFoundError(2, "No such file or directory", "a.png"), 2, "error: .Errno 2. No such file .*'a.png'"),
        (ConnectionError("no network"), 2, "error: no network"),
        (ImportError("Plots need matplotlib."), 2, "error: Plots need matplotlib."),
        (FloatingPointError("The loss became nan."), DIVERGED, "error: The loss became nan."),
        (ValueError(), 2, "error: ValueError"),
        (ValueError("1 of 2:\nfirst\nsecond\n"), 2, "error: 1 of 2:\nfirst\nsecond"),
        (ValueError("class \x1b[31m\u202ered"), 2, r"error: class \\x1b\[31m\\u202ered"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
        (KeyboardInterrupt("interrupted; give it again"), INTERRUPTED, "interrupted; give it again"),
    ],
    ids=repr,
)
def test_an_error_that_the_user_can_correct_is_one_line(ended, error, code, line):
    found, err = ended(error)
    assert found == code
    assert re.fullmatch(f"fewshot.py: {line}\n", err)


@pytest.mark.parametrize("error", [TypeError("bug"), KeyError("bug"), RuntimeError("bug"), AssertionError("bug")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)), one_line_errors():
        raise error


def test_a_script_may_add_types_of_errors(ended):
    assert ended(RuntimeError("2 runs failed"), RuntimeError) == (2, "fewshot.py: error: 2 runs failed\n")


def test_of_several_processes_only_the_main_one_prints_and_torchrun_gets_the_line_of_each(
    ended, tmp_path, monkeypatch
):
    for rank in ("0", "1"):
        reply = tmp_path / rank
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(reply))
        code, err = ended(ValueError("no such thing"))
        assert (code, err) == (2, "fewshot.py: error: no such thing\n" if rank == "0" else "")
        assert json.loads(reply.read_text())["message"]["message"] == "fewshot.py: error: no such thing"


# The terminal alone, because the lab takes seconds to import. Each process waits for the other, which torchrun would
# end.
MISTAKEN = f"""
import os, runpy, time
from pathlib import Path
try:
    with runpy.run_path({terminal.__file__!r})["one_line_errors"]():
        raise ValueError("no such thing")
finally:
    Path(os.environ["RANK"]).touch()
    while not (Path("0").exists() and Path("1").exists()):
        time.sleep(0.01)
"""


def test_of_two_processes_one_names_a_mistake_and_torchrun_repeats_it_at_its_end(tmp_path):
    (tmp_path / "fewshot.py").write_text(MISTAKEN)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = subprocess.run([*torchrun, "fewshot.py"], capture_output=True, text=True, cwd=tmp_path)
    lines = ended.stderr.splitlines()
    assert ended.returncode != 0 and sum(line.startswith("fewshot.py: error: ") for line in lines) == 1
    assert "fewshot.py: error: no such thing" in lines[-2]  # the last line is a rule
    assert "terminal.py" not in ended.stderr  # no traceback of ours


@pytest.mark.parametrize(
    "text", ["\x1b]0;x\x07", "a\u202eb", "a\u2066b", "\u200b", "\ufeff", "\x9b1m", "\x7f", "\u2028", "\udcff"]
)
def test_characters_that_control_a_terminal_are_escaped(text):
    assert printable(text).isprintable() and printable(text) != text


@pytest.mark.parametrize("text", ["Blümchen", "犬　猫", "نمر", "tom's cat (2)", "😀", "a\u00a0b", "C:\\dir"])
def test_ordinary_text_is_printed_as_it_is(text):
    assert printable(text) == text


SCRIPTS = {
    "fewshot": [["--no_such_flag"], ["--shots", "0"], ["--train_dir", "nowhere"], ["--method", "mudp"]],
    "sweep": [["--shots", "many"], ["--methods", "mudp"]],
    "report": [["nowhere"]],
    "convert_checkpoint": [["nowhere.pth", "--method", "maple", "--output_dir", "out"]],
    "export": [["nowhere", "a.tflite"], ["no/where", "a.onnx"]],
    "predict": [["no/where", "nowhere.png"]],
    "benchmark": [["--classes", "many"]],
}


@pytest.mark.parametrize(
    ("script", "flags"), [(name, flags) for name, calls in SCRIPTS.items() for flags in calls], ids=str
)
def test_a_mistake_ends_every_script_with_its_sentence(script, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"examples/{script}.py", *flags])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLES / f"{script}.py"), run_name="__main__")
    err = capsys.readouterr().err
    assert end.value.code == 2 and f"{script}.py: error: " in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_clip_that_cannot_be_downloaded_is_named_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fewshot.py", "--model_name_or_path", "nobody/no-clip"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLES / "fewshot.py"), run_name="__main__")
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.startswith("fewshot.py: error: ") and "nobody/no-clip" in err
    assert err.count("\n") == 1
