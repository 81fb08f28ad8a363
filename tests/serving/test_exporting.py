"""One file that classifies, against the model it was written from."""

import json
import subprocess
import sys

import onnxruntime
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, CLIPModel

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo, export_classifier
from peft_mudpt.lab.probe import LinearProbe


NAMES = ["red star", "blue heart", "grünes Kreuz"]


def classifier_with(config):
    torch.manual_seed(1)
    model = CLIPModel.from_pretrained(demo.MODEL_PATH)
    if config is not None:
        model = get_peft_model(model, config)
    return MuDPTClassifier(model.eval(), NAMES, "{}.", AutoTokenizer.from_pretrained(demo.MODEL_PATH))


@pytest.fixture(scope="module")
def classifier():
    return classifier_with(MuDPTConfig(init_std=0.5))


@pytest.fixture(scope="module")
def images():
    return torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def onnx_file(classifier, tmp_path_factory):
    return export_classifier(classifier, tmp_path_factory.mktemp("onnx") / "new" / "classifier.onnx")


def run(session, images, batch_size):
    parts = [session.run(None, {"pixel_values": part.numpy()})[0] for part in images.split(batch_size)]
    return torch.cat([torch.from_numpy(part) for part in parts])


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_onnx_gives_the_models_probabilities_for_any_batch(classifier, images, onnx_file, batch_size):
    found = run(onnxruntime.InferenceSession(onnx_file), images, batch_size)
    torch.testing.assert_close(found, classifier.predict_proba(images), atol=1e-4, rtol=0)


def test_onnx_is_one_file_that_knows_its_classes(onnx_file):
    assert [file.name for file in onnx_file.parent.iterdir()] == ["classifier.onnx"]
    session = onnxruntime.InferenceSession(onnx_file)
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["class_names"]) == NAMES and notes["class_template"] == "{}."
    assert json.loads(notes["preprocessor_config"])["size"] == {"shortest_edge": 32}
    assert "white" in notes["picture_rule"]
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]


def test_the_text_tower_is_left_behind(classifier, onnx_file):
    vision = sum(p.numel() for p in classifier.model.vision_model.parameters())
    assert onnx_file.stat().st_size < 4 * vision + 600_000  # the graph itself; the text tower has as much again


def test_torch_export_needs_nothing_of_this_package(classifier, images, tmp_path):
    file = export_classifier(classifier, tmp_path / "classifier.pt2", "torch_export")
    torch.save((images, classifier.predict_proba(images)), tmp_path / "expected.pt")
    code = """
import sys, torch
notes = {"class_names": ""}
program = torch.export.load(sys.argv[1], extra_files=notes).module()
images, expected = torch.load(sys.argv[2])
torch.testing.assert_close(program(images[:7]), expected[:7], atol=1e-5, rtol=0)
torch.testing.assert_close(program(images[:1]), expected[:1], atol=1e-5, rtol=0)
print(notes["class_names"])
assert "peft_mudpt" not in sys.modules and "transformers" not in sys.modules
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, file, tmp_path / "expected.pt"], capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout) == NAMES


@pytest.mark.parametrize(
    "config",
    [None, MuDPTConfig.from_preset("coop"), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)],
    ids=["plain", "coop", "lora"],
)
def test_other_adapters_and_none_are_written_as_well(config, images, tmp_path):
    classifier = classifier_with(config)
    file = export_classifier(classifier, tmp_path / "classifier.pt2", "torch_export")
    found = torch.export.load(file).module()(images)
    torch.testing.assert_close(found, classifier.predict_proba(images), atol=1e-5, rtol=0)


def test_a_linear_probe_is_written_as_well(images, tmp_path):
    probe = LinearProbe(CLIPModel.from_pretrained(demo.MODEL_PATH), NAMES).eval()
    for parameter in probe.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    file = export_classifier(probe, tmp_path / "classifier.onnx")
    session = onnxruntime.InferenceSession(file)
    with torch.no_grad():
        torch.testing.assert_close(run(session, images, 7), probe(images).logits.softmax(dim=-1), atol=1e-4, rtol=0)
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["class_names"]) == NAMES and "class_template" not in notes


def test_the_classifier_stays_as_it_was(tmp_path):
    classifier = classifier_with(MuDPTConfig(init_std=0.5)).train()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    export_classifier(classifier, tmp_path / "classifier.pt2", "torch_export")
    after = classifier.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], t) for name, t in before.items())
    assert classifier.model.training and any(p.requires_grad for p in classifier.parameters())


def test_a_classifier_in_half_precision_is_written_in_float32(classifier, images, tmp_path):
    rough = classifier_with(MuDPTConfig(init_std=0.5))
    rough.model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        file = export_classifier(rough, tmp_path / "classifier.onnx")
    expected = rough.float().predict_proba(images)
    torch.testing.assert_close(run(onnxruntime.InferenceSession(file), images, 7), expected, atol=1e-4, rtol=0)


def test_a_folder_is_refused(classifier, tmp_path):
    with pytest.raises(ValueError, match="is a folder; give the name of a file"):
        export_classifier(classifier, tmp_path)


def test_an_unknown_format_is_refused(classifier, tmp_path):
    with pytest.raises(ValueError, match="format='tflite' is unknown; it is one of onnx, torch_export"):
        export_classifier(classifier, tmp_path / "classifier", "tflite")


def test_without_onnxscript_it_says_what_to_install(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr("peft_mudpt.serving.exporting.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        export_classifier(classifier, tmp_path / "folder" / "classifier.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_there_survives_a_failure(classifier, tmp_path, monkeypatch):
    file = tmp_path / "classifier.pt2"
    file.write_text("older")
    monkeypatch.setattr(torch.export, "save", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_classifier(classifier, file, "torch_export")
    assert [f.name for f in tmp_path.iterdir()] == ["classifier.pt2"] and file.read_text() == "older"
