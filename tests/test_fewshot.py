"""The main job, as its users run it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, CLIPModel

from peft_mudpt import demo


SCRIPT = Path(__file__).parents[1] / "examples" / "fewshot.py"


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu", str(SCRIPT)]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)


def save_pictures(folder: Path, per_class: int, classes=("filled red star", "hollow blue heart")) -> None:
    rng = np.random.default_rng(3)
    for name in classes:
        (folder / name.replace(" ", "_")).mkdir(parents=True)
        for i in range(per_class):
            demo.draw(name, "plain", rng).save(folder / name.replace(" ", "_") / f"{i}.png")


def number(output: str, name: str) -> float:
    return float(re.search(rf"^{name} +([\d.,]+)", output, re.MULTILINE)[1].replace(",", ""))


@torch.no_grad()
def plain_clips_accuracy() -> float:
    """Of CLIP without any adapter, through its own forward, in percent."""
    clip = CLIPModel.from_pretrained(demo.MODEL_PATH).eval()
    processor = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")
    pictures = demo.load_pictures(demo.ADAPTATION_STYLE, images_per_class=10, seed=2)
    texts = [f"a photo of a {name}." for name in demo.CLASS_NAMES]
    inputs = processor(text=texts, images=pictures["image"][:], padding=True, return_tensors="pt")
    right = clip(**inputs).logits_per_image.argmax(dim=-1) == torch.tensor(pictures["label"][:])
    return 100 * right.float().mean().item()


def test_a_few_steps_on_the_embedded_world_gain_accuracy(tmp_path):
    result = run("--max_train_steps", 60, "--output_dir", tmp_path / "adapter")
    assert result.returncode == 0, result.stderr
    assert number(result.stdout, "zero-shot accuracy") == pytest.approx(plain_clips_accuracy(), abs=0.06)
    assert number(result.stdout, "accuracy after") > number(result.stdout, "zero-shot accuracy") + 10
    assert "reloaded              equal logits" in result.stdout
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize("method", ["maple", "vpt_deep"])
def test_a_folder_of_pictures_is_all_it_needs(tmp_path, method):
    save_pictures(tmp_path / "pictures", per_class=6)
    result = run(
        *("--train_dir", tmp_path / "pictures", "--output_dir", tmp_path / "adapter"),
        *("--method", method, "--shots", 4, "--max_train_steps", 2),
    )
    assert result.returncode == 0, result.stderr
    assert number(result.stdout, "training pictures") == 8
    assert number(result.stdout, "test pictures") == 4
    assert number(result.stdout, "accuracy after") == 100


def test_without_pictures_to_test_on_it_trains_all_the_same_and_says_so(tmp_path):
    save_pictures(tmp_path / "pictures", per_class=1)
    result = run("--train_dir", tmp_path / "pictures", "--output_dir", tmp_path / "adapter", "--max_train_steps", 2)
    assert result.returncode == 0, result.stderr
    assert "no picture is left to test on: lower --shots" in result.stdout


def test_one_class_alone_is_refused(tmp_path):
    save_pictures(tmp_path / "pictures", per_class=1, classes=("filled red star",))
    result = run("--train_dir", tmp_path / "pictures", "--output_dir", tmp_path / "adapter")
    assert "must hold a folder of pictures for each class, at least two" in result.stderr
    assert not (tmp_path / "adapter").exists()


def test_classes_may_be_called_like_splits(tmp_path):
    save_pictures(tmp_path / "pictures", per_class=2)
    (tmp_path / "pictures" / "filled_red_star").rename(tmp_path / "pictures" / "train")
    (tmp_path / "pictures" / "hollow_blue_heart").rename(tmp_path / "pictures" / "test_tube")
    result = run(
        *("--train_dir", tmp_path / "pictures", "--output_dir", tmp_path / "adapter"),
        *("--shots", 1, "--max_train_steps", 1),
    )
    assert result.returncode == 0, result.stderr
    assert number(result.stdout, "classes") == 2 and number(result.stdout, "test pictures") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "mudp"), "Unknown preset 'mudp'"),
        (("--train_dir", "nowhere"), "--train_dir nowhere is no folder"),
        (("--output_dir", __file__), "is a file; give a folder"),
        (("--max_train_steps", 0), "--max_train_steps 0 is too few"),
        (("--template", "a photo"), "must hold {} once"),
        (("--shots", 0), "shots=0"),
    ],
)
def test_mistakes_are_named(tmp_path, arguments, message):
    command = [sys.executable, str(SCRIPT), "--output_dir", str(tmp_path / "adapter"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0 and message in result.stderr
    assert not (tmp_path / "adapter").exists()


def test_mixed_precision_ends_with_an_adapter_that_reloads(tmp_path):
    result = run("--mixed_precision", "bf16", "--max_train_steps", 2, "--output_dir", tmp_path / "adapter")
    assert "reloaded              equal logits" in result.stdout, result.stderr


def test_two_processes_share_the_work(tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", str(SCRIPT)]
    arguments = ["--max_train_steps", "2", "--output_dir", str(tmp_path / "adapter")]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("reloaded              equal logits") == 1
