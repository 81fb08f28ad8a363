"""examples/convert_checkpoint.py: the files that it reads, and the adapter that it writes."""

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftConfig

from peft_mudpt import MuDPTConfig
from tests.conversion.published_files import as_dassl_saves, published_file, recorded


@pytest.fixture
def convert(run_script):
    return partial(run_script, "convert_checkpoint.py")


def test_the_script_writes_an_adapter_that_peft_finds(convert, tmp_path):
    torch.save({"state_dict": recorded("maple"), "epoch": 5}, tmp_path / "model.pth.tar-5")
    result = convert(tmp_path / "model.pth.tar-5", "--method", "maple", "--output_dir", tmp_path / "adapter")
    assert result.code == 0, result.stderr
    assert isinstance(PeftConfig.from_pretrained(tmp_path / "adapter"), MuDPTConfig)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_the_script_replaces_an_adapter_only_if_told_to(convert, tmp_path):
    torch.save(recorded("coop"), tmp_path / "file")
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_text("trained")
    arguments = (tmp_path / "file", "--method", "coop", "--output_dir", folder)
    refused = convert(*arguments)
    assert refused.code and "adapter_model.safetensors" in refused.stderr
    assert [file.read_text() for file in folder.iterdir()] == ["trained"]
    replaced = convert(*arguments, "--overwrite_output_dir")
    assert replaced.code == 0, replaced.stderr
    assert isinstance(PeftConfig.from_pretrained(folder), MuDPTConfig)


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path(self.target),)


def test_the_script_executes_nothing_that_a_file_holds(convert, tmp_path):
    Malicious.target = str(tmp_path / "executed")
    (tmp_path / "plain_pickle.pth").write_bytes(pickle.dumps({"prompt_learner.ctx": Malicious()}))
    torch.save({"prompt_learner.ctx": Malicious()}, tmp_path / "archive.pth")
    for name in ("plain_pickle.pth", "archive.pth"):
        result = convert(tmp_path / name, "--method", "coop", "--output_dir", tmp_path / "adapter")
        assert "convert_checkpoint.py: error: " in result.stderr and result.code == 2
    assert not (tmp_path / "executed").exists() and not (tmp_path / "adapter").exists()


def test_the_script_reads_past_the_objects_that_trainers_save(convert, tmp_path):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    saved = {
        "state_dict": recorded("coop"),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"successor": schedule},
        "val_result": np.float64(1),
    }
    torch.save(saved, tmp_path / "model.pth.tar-50")
    result = convert(tmp_path / "model.pth.tar-50", "--method", "coop", "--output_dir", tmp_path / "adapter")
    assert result.code == 0, result.stderr


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 broken"])
def test_the_script_refuses_what_is_no_checkpoint(convert, tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    result = convert(tmp_path / "file", "--method", "coop", "--output_dir", tmp_path / "adapter")
    assert "convert_checkpoint.py: error: " in result.stderr and not (tmp_path / "adapter").exists()


def test_the_script_recognizes_the_method_and_tells_what_it_left_aside(convert, tmp_path):
    torch.save(as_dassl_saves(published_file("promptsrc")), tmp_path / "model.pth.tar-20")
    result = convert(tmp_path / "model.pth.tar-20", "--output_dir", tmp_path / "adapter")
    assert result.code == 0, result.stderr
    lines = result.stdout.splitlines()
    left_aside = len(published_file("promptsrc")) - 6
    assert lines[0] == "Method promptsrc, as stored by PromptSRC's code."
    assert lines[1].startswith(f"2 tensors, {3 * 4 * (64 + 128):,} numbers")
    assert lines[2].startswith(f"{left_aside} tensors left aside")
    assert "Give --class_template" in lines[3]


def test_the_script_notes_what_tcp_does_not_store(convert, tmp_path):
    torch.save(as_dassl_saves(published_file("tcp")), tmp_path / "model.pth.tar-50")
    templates = ["--class_template", "{} texture.", "--condition_template", "a photo of a {}, a type of texture."]
    flags = [*templates, "--class_token_layer", "2", "--output_dir", tmp_path / "adapter"]
    result = convert(tmp_path / "model.pth.tar-50", *flags)
    assert result.code == 0, result.stderr
    assert "Give --class_template" not in result.stdout
    config = PeftConfig.from_pretrained(tmp_path / "adapter")
    assert (config.class_template, config.class_token_layer) == ("{} texture.", 2)
    assert config.condition_template == "a photo of a {}, a type of texture."


def test_the_script_lists_the_checkpoints_in_a_folder(convert, tmp_path):
    (tmp_path / "seed1" / "VLPromptLearner").mkdir(parents=True)
    refused = convert(tmp_path / "seed1", "--output_dir", tmp_path / "adapter")
    assert refused.code == 2 and "seed1 is a folder. Give a checkpoint: there is none in it." in refused.stderr
    for epoch in (5, 20):
        (tmp_path / "seed1" / "VLPromptLearner" / f"model.pth.tar-{epoch}").touch()
    refused = convert(tmp_path / "seed1", "--output_dir", tmp_path / "adapter")
    for epoch in (5, 20):
        assert str(Path("seed1", "VLPromptLearner", f"model.pth.tar-{epoch}")) in refused.stderr
    assert not (tmp_path / "adapter").exists()
