"""examples/export.py, as a user calls it."""

from functools import partial

import onnx
import onnxruntime
import pytest
from peft import get_peft_model
from transformers import CLIPModel

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    config = MuDPTConfig(class_names=["red star", "blue heart"], class_template="{}.")
    get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), config).save_pretrained(folder)
    return folder


@pytest.fixture
def export(run_script):
    return partial(run_script, "export.py")


@pytest.mark.slow
def test_it_writes_a_classifier_of_the_stored_classes(export, adapter, tmp_path):
    ran = export(adapter, tmp_path / "classifier.onnx", "--opset_version", "21")
    assert "classifier.onnx: 2." in ran.stdout and "2 classes" in ran.stdout, ran.stderr
    assert onnxruntime.InferenceSession(tmp_path / "classifier.onnx").get_outputs()[0].shape == ["batch", 2]
    assert onnx.load(tmp_path / "classifier.onnx").opset_import[0].version == 21


def test_it_writes_encoders_in_the_format_that_was_asked_for(export, adapter, tmp_path, monkeypatch):
    def write(classifier, folder, *options):
        folder.mkdir()
        (folder / "of").write_text(f"{classifier.class_names} {options}")

    monkeypatch.setattr("peft_mudpt.export_encoders", write)
    ran = export(adapter, tmp_path / "encoders", "--encoders", "onnx", "--opset_version", "21")
    assert "encoders: 0.0 MB, encoders of images and texts" in ran.stdout, ran.stderr
    assert (tmp_path / "encoders" / "of").read_text() == "['red star', 'blue heart'] ('onnx', 21)"


def test_it_writes_a_folded_adapter_that_loads(export, adapter, tmp_path):
    ran = export(adapter, tmp_path / "folded")
    assert "folded: 8.0 kB" in ran.stdout, ran.stderr
    assert MuDPTClassifier.from_pretrained(tmp_path / "folded").model.peft_config["default"].folded


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_loaded(export, tmp_path):
    assert "classifier.tflite must end in .onnx or .pt2" in export("nowhere", tmp_path / "classifier.tflite").stderr
    assert f"OUTPUT {tmp_path} already exists" in export("nowhere", tmp_path).stderr
    one_file, folder = tmp_path / "classifier.onnx", tmp_path / "folder"
    assert "--encoders writes two" in export("nowhere", one_file, "--encoders", "onnx").stderr
    assert "--opset_version is for ONNX" in export("nowhere", folder, "--opset_version", "18").stderr
