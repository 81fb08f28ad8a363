"""Adapters, checkpoints and results that an earlier version has written can still be loaded and resumed."""

import json
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPModel

from peft_mudpt import MuDPTClassifier, demo
from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.data import held_out
from peft_mudpt.lab.report.tables import markdown_report
from peft_mudpt.lab.run import run
from peft_mudpt.lab.schema import read_result, read_results


EARLIER = Path(__file__).parents[1] / "earlier"
CLASSES = ("filled red star", "hollow blue heart", "filled green cross", "hollow purple arrow")
ASKED = {"train_dir": "pictures", "shots": 2, "max_train_steps": 4, "learning_rate": 0.01}


@pytest.fixture
def workplace(tmp_path, monkeypatch, fresh_accelerator):
    """A working folder with copies of the earlier runs and of their pictures."""
    rng = np.random.default_rng(3)
    for name in CLASSES:
        folder = tmp_path / "pictures" / name.replace(" ", "_")
        folder.mkdir(parents=True)
        for i in range(4):
            demo.paint(name, "faded", rng).save(folder / f"{i}.png")
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("adapter", "template"), [("maple", "of a {}."), ("lora", "a photo of a {}."), ("whole", "of a {}.")]
)
def test_an_adapter_gives_the_recorded_logits(adapter, template):
    clip = CLIPModel.from_pretrained(demo.MODEL_PATH)
    model = PeftModel.from_pretrained(clip, EARLIER / adapter).eval()
    classifier = MuDPTClassifier(model, CLASSES[:3], template, AutoTokenizer.from_pretrained(demo.MODEL_PATH))
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).sin().reshape(2, 3, 32, 32)
    images[1] = 2 * images[1].flip(-1)
    expected = torch.tensor(json.loads((EARLIER / "logits.json").read_text())[adapter])
    with torch.no_grad():
        torch.testing.assert_close(classifier(images).logits, expected, atol=1e-4, rtol=1e-5)


def test_an_interrupted_run_resumes_and_ends_with_the_same_weights(workplace, monkeypatch):
    # the earlier version held other pictures out, and this run must go on with those that it trained on
    monkeypatch.setattr(
        held_out, "random_order", lambda items, seed: Random(seed).sample(range(len(items)), len(items))
    )
    options = {"method": "coop", "method_kwargs": '{"num_virtual_tokens": 2}', "checkpointing_steps": 2}
    result = run(Arguments(**ASKED, **options, output_dir="interrupted", resume_from_checkpoint="latest"))
    assert result["steps"] == 4
    ours, whole = (load_file(workplace / name / "adapter_model.safetensors") for name in ("interrupted", "whole"))
    assert ours.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=1e-5)


def test_a_finished_run_is_not_run_again(workplace):
    before = (workplace / "maple" / "result.json").read_text()
    options = {"method": "maple", "method_kwargs": '{"prompt_depth": 2}', "output_dir": "maple"}
    assert run(Arguments(**ASKED, **options)) == read_result(EARLIER / "maple")
    assert (workplace / "maple" / "result.json").read_text() == before


@pytest.mark.slow
def test_a_protocol_in_its_earlier_spelling_is_the_same_protocol(workplace):
    options = {"method": "zero_shot", "protocol": "domain-generalization", "targets": "plain,dark"}
    result = run(Arguments(**ASKED, **options, output_dir="transfer"))
    assert result["arguments"]["protocol"] == "domain-generalization"


def test_results_are_reported(workplace):
    report = markdown_report(read_results(workplace), pictures={})
    assert "### Few-shot" in report and "### Domain-generalization, 2 shots" in report
