"""The main job, as its users run it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from peft_mudpt import demo


SCRIPT = Path(__file__).parents[1] / "examples" / "fewshot.py"


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu", str(SCRIPT)]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)


def number(output: str, name: str) -> float:
    return float(re.search(rf"^{name} +([\d.,]+)", output, re.MULTILINE)[1].replace(",", ""))


def test_a_few_steps_on_the_embedded_world_gain_accuracy(tmp_path):
    result = run("--max_train_steps", 60, "--output_dir", tmp_path / "adapter")
    assert result.returncode == 0, result.stderr
    assert 35 <= number(result.stdout, "zero-shot accuracy") <= 60
    assert number(result.stdout, "accuracy after") > number(result.stdout, "zero-shot accuracy") + 10
    assert "reloaded              equal logits" in result.stdout
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize("method", ["maple", "vpt_deep"])
def test_a_folder_of_pictures_is_all_it_needs(tmp_path, method):
    for name, label in (("red_star", 4), ("blue_heart", 39)):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for i, picture in enumerate(demo.load_pictures("plain", 6, seed=3)["image"][6 * label : 6 * label + 6]):
            picture.save(folder / f"{i}.png")
    result = run(
        *("--train_dir", tmp_path / "pictures", "--output_dir", tmp_path / "adapter"),
        *("--method", method, "--shots", 4, "--max_train_steps", 2),
    )
    assert result.returncode == 0, result.stderr
    assert number(result.stdout, "training pictures") == 8
    assert number(result.stdout, "test pictures") == 4
    assert number(result.stdout, "accuracy after") == 100
