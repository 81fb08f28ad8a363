"""examples/fewshot.py, as a user calls it."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import launch, reset_accelerator
from tests.lab.test_experiment import save_pictures


SCRIPT = Path(__file__).parents[2] / "examples" / "fewshot.py"
run = partial(launch, SCRIPT)
pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture
def run_here(run_script):
    return partial(run_script, SCRIPT.name)


def number(output: str, name: str) -> float:
    return float(re.search(rf"^{name} +([\d.,]+)", output, re.MULTILINE)[1].replace(",", ""))


def test_a_few_steps_on_the_embedded_world_improve_the_accuracy(tmp_path):
    result = run("--max_train_steps", 60, "--output_dir", tmp_path / "adapter")
    assert result.returncode == 0, result.stderr
    assert number(result.stdout, "test pictures") == 960
    assert number(result.stdout, "accuracy after") > number(result.stdout, "zero-shot accuracy") + 10
    assert "reloaded                  equal logits" in result.stdout


def test_without_test_pictures_it_trains_and_prints_a_note(run_here, tmp_path):
    pictures = save_pictures(tmp_path / "pictures", per_class=1)
    result = run_here("--train_dir", pictures, "--output_dir", tmp_path / "adapter", "--max_train_steps", 2)
    assert result.code == 0, result.stderr
    notes = re.findall(r"^note +(.+)$", result.stdout, re.MULTILINE)
    assert any("--test_dir" in note for note in notes) and any("filled green cross (1), " in note for note in notes)


def test_of_two_processes_one_names_a_mistake_and_torchrun_repeats_it_at_its_end(tmp_path):
    result = run("--method", "mudp", "--output_dir", tmp_path / "adapter", processes=2)
    lines = result.stderr.splitlines()
    assert result.returncode != 0 and sum(line.startswith("fewshot.py: error: ") for line in lines) == 1
    assert re.search(r"fewshot.py: error: .*Unknown method 'mudp'", lines[-2])  # the last line is a rule
    assert "peft_mudpt/lab" not in result.stderr  # no traceback of ours
    assert not (tmp_path / "adapter").exists()


def test_mixed_precision_ends_with_an_adapter_that_reloads(run_here, tmp_path):
    pictures = save_pictures(tmp_path / "pictures", per_class=2)
    arguments = ("--train_dir", pictures, "--output_dir", tmp_path / "adapter", "--max_train_steps", 2)
    result = run_here(*arguments, "--mixed_precision", "bf16")
    assert "reloaded                  equal logits" in result.stdout, result.stderr


def test_two_processes_learn_the_same_weights_as_one_from_the_same_batches(run_here, tmp_path):
    pictures = save_pictures(tmp_path / "pictures", per_class=4)
    arguments = ("--train_dir", pictures, "--shots", 2, "--max_train_steps", 6, "--learning_rate", 0.01)
    arguments += ("--optimizer", "sgd")  # AdamW divides by the gradient, and so enlarges differences in the last bits
    # pictures per process and step
    sizes = {processes: ("--per_device_train_batch_size", 4 // processes) for processes in (1, 2)}
    one = run_here(*arguments, *sizes[1], "--output_dir", tmp_path / "1")
    two = run(*arguments, *sizes[2], "--output_dir", tmp_path / "2", processes=2)
    assert (one.code, two.returncode) == (0, 0), two.stderr
    assert one.stdout.count("equal logits") == two.stdout.count("equal logits") == 1  # only the main process prints
    outputs = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("1", "2")]
    assert [output["hardware"]["processes"] for output in outputs] == [1, 2]
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("1", "2"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=1e-5)
    assert outputs[0]["metrics"] == outputs[1]["metrics"]
    reset_accelerator()
    again = run_here(*arguments, *sizes[2], "--output_dir", tmp_path / "2")
    assert "processes: 2 there, 1 requested" in again.stderr  # other batches: another run
