"""The CLIP that a run adapts."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import OwlViTConfig, OwlViTModel

from peft_mudpt import demo
from peft_mudpt.classifier.loading import ModelSource
from peft_mudpt.lab import Experiment, prepare
from peft_mudpt.lab.backbone import Backbone, BackboneOptions
from peft_mudpt.lab.data.embedded import load_embedded
from tests.classifier.test_loading import CLIP, publish, save_clip, unreachable


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.mark.parametrize("folder", ["embedded", demo.MODEL_PATH])
def test_a_revision_of_a_folder_is_refused(folder):
    with pytest.raises(ValueError, match="--model_revision v2 .*Hub"):
        BackboneOptions(folder, "v2")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_each_file_that_a_clip_is_loaded_from_has_a_fingerprint(tmp_path, name):
    folder = shutil.copytree(demo.MODEL_PATH, tmp_path / "clip")
    for other in ("notes.txt", "training_args.bin", "pytorch_model.bin", "predictions.json"):
        (folder / other).write_text("mine")
    before = BackboneOptions(str(folder)).fingerprints()
    assert before[name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert {*before} == {file.name for file in Path(demo.MODEL_PATH).iterdir() if file.is_file()}
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    after = BackboneOptions(str(folder)).fingerprints()
    assert [other for other in before if before[other] != after[other]] == [name]


def test_a_clip_of_the_hub_is_known_by_name():
    assert BackboneOptions(CLIP).fingerprints() is None


def test_a_clip_that_cannot_be_loaded_is_named_with_the_flag_and_the_embedded_one(tmp_path):
    with pytest.raises(OSError, match=f"The CLIP '{tmp_path}' cannot be loaded.* --model_name_or_path.* 'embedded'"):
        Backbone.load(ModelSource(str(tmp_path)), torch.device("cpu"))


def test_a_run_asks_a_hub_that_cannot_be_reached_for_one_file(monkeypatch):
    asked = unreachable(monkeypatch)
    with pytest.raises(OSError, match="The CLIP 'someone/unknown' cannot be loaded.* 'embedded'"):
        prepare(Experiment(load_embedded("faded"), "mudpt", "someone/unknown"))
    assert asked == ["config.json"]


@pytest.mark.parametrize("method", ["coop", "lora"])
def test_a_run_uses_and_records_the_revision_of_its_clip(tmp_path, monkeypatch, method):
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("peft_mudpt.lab.classification.experiment.evaluate_task", lambda *_, **__: {})  # the slow part
    publish(cache, CLIP, "v2", save_clip(tmp_path / "clip", 2))  # there is no main branch to fall back to
    experiment = Experiment(load_embedded("faded"), method, CLIP, model_revision="v2")
    plan = prepare(experiment)
    assert experiment.asked["model_revision"] == "v2"
    assert plan.learner.model.peft_config["default"].revision == "v2"
    expected = load_file(tmp_path / "clip" / "model.safetensors")["visual_projection.weight"]
    assert torch.equal(plan.learner.model.visual_projection.weight, expected)


def test_a_model_of_no_supported_family_is_refused_whatever_the_method(tmp_path):
    sizes = dict(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
    OwlViTModel(OwlViTConfig(text_config=sizes, vision_config=sizes)).save_pretrained(tmp_path)
    backbone = Backbone(ModelSource(str(tmp_path)), torch.device("cpu"), None, None)
    with pytest.raises(ValueError, match=r"OwlViTModel \(model_type 'owlvit'\); give a whole CLIPModel"):
        backbone.load_clip()
