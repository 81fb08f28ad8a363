"""examples/fewshot.py, as a user calls it."""

import json
import re
import runpy
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import in_two_processes, reset_accelerator
from tests.lab.test_experiment import save_pictures


SCRIPT = Path(__file__).parents[2] / "examples" / "fewshot.py"
pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture
def run_here(run_script):
    return partial(run_script, SCRIPT.name)


def of(pictures) -> tuple:
    """The flags for pictures of the embedded world in a folder."""
    return ("--train_dir", pictures, "--model_name_or_path", "embedded")


def number(output: str, name: str) -> float:
    return float(re.search(rf"^{name} +([\d.,]+)", output, re.MULTILINE)[1].replace(",", ""))


@pytest.mark.slow
def test_a_few_steps_on_the_embedded_world_improve_the_accuracy(run_here, tmp_path):
    result = run_here("--max_train_steps", 60, "--output_dir", tmp_path / "adapter")
    assert result.code == 0, result.stderr
    assert number(result.stdout, "test pictures") == 960
    assert number(result.stdout, "accuracy after") > number(result.stdout, "zero-shot accuracy") + 10
    assert "reloaded                  equal logits" in result.stdout


def test_without_test_pictures_it_trains_and_prints_a_note(run_here, tmp_path):
    pictures = save_pictures(tmp_path / "pictures", per_class=1)
    result = run_here(*of(pictures), "--output_dir", tmp_path / "adapter", "--max_train_steps", 2)
    assert result.code == 0, result.stderr
    notes = re.findall(r"^note +(.+)$", result.stdout, re.MULTILINE)
    assert any("--test_dir" in note for note in notes) and any("filled green cross (1), " in note for note in notes)


def test_mixed_precision_ends_with_an_adapter_that_reloads(run_here, tmp_path):
    pictures = save_pictures(tmp_path / "pictures", per_class=2)
    arguments = (*of(pictures), "--output_dir", tmp_path / "adapter", "--max_train_steps", 2)
    result = run_here(*arguments, "--mixed_precision", "bf16")
    assert "reloaded                  equal logits" in result.stdout, result.stderr


def run_as(rank, folder, arguments):
    """Run the script, as one of several processes; what it prints goes to a file."""
    sys.argv = [str(SCRIPT), *map(str, arguments)]
    with open(folder / f"printed_{rank}", "w") as printed, redirect_stdout(printed):
        runpy.run_path(str(SCRIPT), run_name="__main__")


def test_two_processes_learn_the_same_weights_as_one_from_the_same_batches(run_here, tmp_path):
    pictures = save_pictures(tmp_path / "pictures", per_class=4)
    arguments = (*of(pictures), "--shots", 2, "--max_train_steps", 6, "--learning_rate", 0.01)
    arguments += ("--optimizer", "sgd")  # AdamW divides by the gradient, and so enlarges differences in the last bits
    # pictures per process and step
    sizes = {processes: ("--per_device_train_batch_size", 4 // processes) for processes in (1, 2)}
    one = run_here(*arguments, *sizes[1], "--output_dir", tmp_path / "1")
    assert one.code == 0, one.stderr
    in_two_processes(run_as, tmp_path, (*arguments, *sizes[2], "--output_dir", tmp_path / "2"))
    printed = [one.stdout, *((tmp_path / f"printed_{rank}").read_text() for rank in range(2))]
    assert [text.count("equal logits") for text in printed] == [1, 1, 0]  # only the main process prints
    outputs = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("1", "2")]
    assert [output["hardware"]["processes"] for output in outputs] == [1, 2]
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("1", "2"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=1e-5)
    tests = [output["metrics"]["test"] for output in outputs]
    errors = [test.pop("calibration")["before"]["error"] for test in tests]
    assert tests[0] == tests[1] and errors[0] == pytest.approx(errors[1], abs=1e-3)
    reset_accelerator()
    again = run_here(*arguments, *sizes[2], "--output_dir", tmp_path / "2")
    assert "processes: 2 there, 1 here" in again.stderr  # other batches: another run
