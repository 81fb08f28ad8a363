"""Classifiers on the image features of a frozen CLIP: linear probes and Tip-Adapters."""

import json

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, SiglipConfig, SiglipModel

from peft_mudpt import MuDPTClassifier, demo
from peft_mudpt.classifier.class_texts import ClassTexts
from peft_mudpt.lab.differences import differences
from peft_mudpt.lab.identity import as_identity, what_was_asked
from peft_mudpt.lab.learner import Ground
from peft_mudpt.lab.methods import MethodOptions, find_method
from peft_mudpt.lab.report.rows import row_name
from peft_mudpt.lab.run import run
from peft_mudpt.lab.run_classifier import load_classifier
from peft_mudpt.lab.schema import read_result
from peft_mudpt.lab.storage import write_json
from peft_mudpt.serving.exporting import export_classifier
from tests.lab.test_experiment import CLASSES, ask, files, pictures
from tests.towers.test_families import TEXT, VISION


__all__ = ["pictures"]  # a fixture
pytestmark = pytest.mark.usefixtures("fresh_accelerator")
TOKENIZER = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
NAMES = ["red star", "blue heart", "green cross"]
IMAGES = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def clip_of(family):
    if family == "clip":
        return CLIPModel.from_pretrained(demo.MODEL_PATH)
    torch.manual_seed(0)
    text = TEXT | dict(vocab_size=len(TOKENIZER), projection_size=48)
    return SiglipModel(SiglipConfig(text_config=text, vision_config=VISION | dict(image_size=32))).eval()


def head_of(method, clip, texts="one {} here", **fields):
    ground = Ground(clip, TOKENIZER, NAMES, fields=fields, texts=ClassTexts.given(texts))
    return find_method(method).apply(ground).model.eval()


@torch.no_grad()
@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("method", ["linear_probe", "tip_adapter"])
def test_a_head_begins_with_the_logits_of_zero_shot_clip(family, method):
    for expected in ("one {} here", ("a photo of {}.", "a drawing of {}.")):
        head = head_of(method, clip_of(family), expected)
        zero_shot = MuDPTClassifier(head.model, NAMES, expected, TOKENIZER)
        torch.testing.assert_close(head(IMAGES).logits, zero_shot(IMAGES).logits, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_a_linear_probe_may_begin_at_zero():
    probe = head_of("linear_probe", clip_of("clip"), start="zero")
    assert torch.equal(probe(IMAGES).logits, torch.zeros(7, 3))


@torch.no_grad()
@pytest.mark.parametrize(("options", "alpha", "beta"), [({}, 1.0, 5.5), ({"alpha": 3, "beta": 2.5}, 3, 2.5)])
def test_a_tip_adapter_adds_what_similar_training_pictures_say(options, alpha, beta):
    head, labels = head_of("tip_adapter", clip_of("clip"), **options), [2, 0, 2, 1]
    known = head.image_features(IMAGES[:4])
    head.remember(known, torch.tensor(labels))
    expected = MuDPTClassifier(head.model, NAMES, "one {} here", TOKENIZER)(IMAGES).logits
    for i, image in enumerate(head.image_features(IMAGES)):
        for picture, label in zip(known, labels):
            expected[i, label] += alpha * torch.exp(-beta * (1 - image @ picture))
    torch.testing.assert_close(head(IMAGES).logits, expected, atol=1e-4, rtol=1e-5)


def test_a_tip_adapter_is_made_without_steps_saved_and_loaded(tmp_path, pictures, capsys):
    result = run(ask(tmp_path, pictures, method="tip_adapter"))
    assert files(tmp_path / "run") == {"result.json", "run.json", "tip_adapter.safetensors"}
    assert (result["steps"], result["loss"], result["optimizer"], result["trainable_parameters"]) == (0, None, None, 0)
    assert "weights saved to" in capsys.readouterr().out
    loaded = load_classifier(tmp_path / "run")
    assert loaded.class_names == sorted(CLASSES) and loaded.head.labels.bincount().tolist() == [2] * 4
    seen = result["metrics"]["test"]["predictions"]
    shown = [f"{pictures['test_dir']}/{item}" for items in seen.values() for item in items]
    assert loaded.predict(shown) == [name for items in seen.values() for name in items.values()]
    with pytest.raises(ValueError, match="holds a Tip-Adapter, .*--classes"):
        load_classifier(tmp_path / "run", class_names=["star", "heart"])
    with pytest.raises(ValueError, match="Tip-Adapter cannot be exported"):
        export_classifier(loaded, tmp_path / "exported" / "tip.onnx")
    assert not (tmp_path / "exported").exists()


def test_a_damaged_tip_adapter_is_named(tmp_path, pictures):
    run(ask(tmp_path, pictures, method="tip_adapter"))
    result = read_result(tmp_path / "run")
    write_json(tmp_path / "run" / "result.json", {**result, "class_names": ["one", "two"]})
    with pytest.raises(ValueError, match="tip_adapter.safetensors does not fit its classes"):
        load_classifier(tmp_path / "run")
    (tmp_path / "run" / "tip_adapter.safetensors").unlink()
    with pytest.raises(ValueError, match="adapter_config.json"):  # it is not taken for zero-shot CLIP
        load_classifier(tmp_path / "run")


def test_the_start_of_a_probe_belongs_to_its_run_and_earlier_probes_began_at_zero(tmp_path, pictures):
    asked = {start: what_was_asked(MethodOptions("linear_probe", start)) for start in (None, '{"start": "zero"}')}
    text, zero = ({"protocol": "few-shot", "mixed_precision": None, **options} for options in asked.values())
    earlier = {**text, "method_kwargs": None}
    assert as_identity(zero) == as_identity(earlier) and "zero" in differences(earlier, text)
    result = run(ask(tmp_path, pictures, method="linear_probe"))
    assert row_name(result) == "linear_probe" and json.loads(result["arguments"]["method_kwargs"]) == {"start": "text"}
    stored = {**read_result(tmp_path / "run"), "arguments": {**result["arguments"], "method_kwargs": None}}
    write_json(tmp_path / "run" / "result.json", stored)
    assert row_name(read_result(tmp_path / "run")) == 'linear_probe {"start": "zero"}'


def test_reported_options_are_those_that_differ_from_the_defaults():
    def row(**fields):
        asked = what_was_asked(MethodOptions("tip_adapter", json.dumps(fields)))
        return row_name({"method": "tip_adapter", "optimizer": None, "arguments": asked})

    assert row() == row(beta=5.5) == "tip_adapter" and row(alpha=2, beta=5.5) == 'tip_adapter {"alpha": 2}'
