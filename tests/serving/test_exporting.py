"""One file that classifies, against the model it was written from."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoProcessor, AutoTokenizer, CLIPConfig, CLIPModel

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo, export_classifier, set_image_size
from peft_mudpt.lab.probe import LinearProbe
from peft_mudpt.serving import formats
from peft_mudpt.serving.programs import classifier_program
from tests.conftest import of_two_layers
from tests.towers.test_families import FAMILIES, Tokenizer, adapted
from tests.towers.test_families import NAMES as WORD_NAMES


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


def test_the_probabilities_of_a_calibrated_classifier_are_calibrated(images):
    calibrated = classifier_with(MuDPTConfig(init_std=0.5))
    labels = calibrated.predict(images)
    labels[::4] = [NAMES[(NAMES.index(label) + 1) % len(NAMES)] for label in labels[::4]]  # it is too sure of itself
    calibrated.calibrate(images, labels)
    found = classifier_program(calibrated).module(images)
    torch.testing.assert_close(found, calibrated.predict_proba(images), atol=1e-5, rtol=0)
    assert (found - calibrated.predict_proba(images, calibrated=False)).abs().max() > 0.01


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("format, first_layer", [("onnx", 1), ("torch_export", 0)])
def test_texts_that_depend_on_the_image_are_encoded_in_the_file(format, first_layer, images, tmp_path):
    torch.manual_seed(1)
    layers = {"text_config": {"num_hidden_layers": first_layer + 1}, "vision_config": {"num_hidden_layers": 1}}
    clip = CLIPModel(CLIPConfig.from_pretrained(demo.MODEL_PATH, **layers))
    model = get_peft_model(clip, MuDPTConfig.from_preset("cocoop", init_std=0.5, first_layer=first_layer)).eval()
    torch.nn.init.normal_(model.prompt_learner.mudpt_adapters["default"].image_shift.meta_net.linear2.weight)
    processor = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")
    classifier = MuDPTClassifier(model, NAMES, "{}.", processor.tokenizer, processor)
    file = export_classifier(classifier, tmp_path / "classifier", format)
    if format == "onnx":
        predict = partial(run, onnxruntime.InferenceSession(file), batch_size=7)
    else:
        predict = torch.export.load(file).module()
    torch.testing.assert_close(predict(images), classifier.predict_proba(images), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_each_family_gives_the_probabilities_of_its_classifier(family, tmp_path):
    model = adapted(of_two_layers(FAMILIES[family]()))
    processor = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil").image_processor
    classifier = MuDPTClassifier(model, WORD_NAMES, "{}.", Tokenizer(family), processor)
    file = export_classifier(classifier, tmp_path / "classifier.pt2", "torch_export")
    pixels = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = torch.export.load(file).module()(pixels)
    torch.testing.assert_close(found, classifier.predict_proba(pixels), atol=1e-5, rtol=0)


def test_a_file_takes_images_of_the_size_that_the_classifier_takes(tmp_path):
    model = of_two_layers(CLIPModel.from_pretrained(demo.MODEL_PATH))
    set_image_size(model, 48)
    classifier = MuDPTClassifier(model.eval(), NAMES, "{}.")
    file = export_classifier(classifier, tmp_path / "classifier.pt2", "torch_export")
    pixels = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    found = torch.export.load(file).module()(pixels)
    torch.testing.assert_close(found, classifier.predict_proba(pixels), atol=1e-5, rtol=0)


def test_a_file_of_classes_with_several_texts_names_them(images, tmp_path):
    model = CLIPModel.from_pretrained(demo.MODEL_PATH)
    classifier = MuDPTClassifier(model, NAMES, ["a {}.", "{}"])
    file, notes = tmp_path / "classifier.pt2", {"class_texts": "", "class_template": ""}
    export_classifier(classifier, file, "torch_export")
    found = torch.export.load(file, extra_files=notes).module()(images)
    torch.testing.assert_close(found, classifier.predict_proba(images), atol=1e-5, rtol=0)
    assert json.loads(notes["class_texts"]) == [[f"a {name}.", name] for name in NAMES] and not notes["class_template"]


def test_a_linear_probe_is_written_as_well(images, tmp_path):
    probe = LinearProbe(CLIPModel.from_pretrained(demo.MODEL_PATH), NAMES).eval()
    for parameter in probe.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    file, notes = tmp_path / "classifier.pt2", {"class_names": "", "class_template": ""}
    export_classifier(probe, file, "torch_export")
    found = torch.export.load(file, extra_files=notes).module()(images)
    with torch.no_grad():
        torch.testing.assert_close(found, probe(images).logits.softmax(dim=-1), atol=1e-5, rtol=0)
    assert json.loads(notes["class_names"]) == NAMES and not notes["class_template"]


def test_the_classifier_stays_as_it_was(tmp_path):
    classifier = classifier_with(MuDPTConfig(init_std=0.5)).train()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    export_classifier(classifier, tmp_path / "classifier.pt2", "torch_export")
    after = classifier.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], t) for name, t in before.items())
    assert classifier.model.training and any(p.requires_grad for p in classifier.parameters())


def test_a_classifier_in_half_precision_is_written_in_float32(images, tmp_path):
    rough = classifier_with(MuDPTConfig(init_std=0.5))
    rough.model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        file = export_classifier(rough, tmp_path / "classifier.pt2", "torch_export")
    expected = rough.float().predict_proba(images)
    torch.testing.assert_close(torch.export.load(file).module()(images), expected, atol=1e-5, rtol=0)


def test_a_folder_is_refused(classifier, tmp_path):
    with pytest.raises(ValueError, match="is a folder; give the name of a file"):
        export_classifier(classifier, tmp_path)


def test_an_unknown_format_is_refused(classifier, tmp_path):
    with pytest.raises(ValueError, match="format='tflite' is unknown; it is one of onnx, torch_export"):
        export_classifier(classifier, tmp_path / "classifier", "tflite")


def test_without_onnxscript_it_says_what_to_install(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr("peft_mudpt.optional.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnxscript: pip install .peft_mudpt\[export\]"):
        export_classifier(classifier, tmp_path / "folder" / "classifier.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def beyond_one_file(monkeypatch):
    """torch puts the weights beside the file, as it does above 1.5 GiB."""
    save = torch.onnx.ONNXProgram.save
    monkeypatch.setattr(
        torch.onnx.ONNXProgram, "save", lambda program, file, external_data: save(program, file, external_data=True)
    )


@pytest.mark.slow
def test_the_weights_of_a_large_model_arrive_beside_its_onnx_file(classifier, images, tmp_path, beyond_one_file):
    file = export_classifier(classifier, tmp_path / "large.onnx")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    found = run(onnxruntime.InferenceSession(file), images, 7)
    torch.testing.assert_close(found, classifier.predict_proba(images), atol=1e-4, rtol=0)


def saving_nothing_that_loads(program, file, **options):
    Path(file).write_bytes(b"half a file")


@pytest.mark.parametrize(
    ("format", "target", "missing"),
    [("onnx", "older", None), ("onnx", "new/classifier", "onnxruntime"), ("torch_export", "older", None)],
)
def test_a_file_that_does_not_load_is_not_handed_over(classifier, tmp_path, monkeypatch, format, target, missing):
    program = SimpleNamespace(model=SimpleNamespace(metadata_props={}), save=partial(saving_nothing_that_loads, None))
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: program)
    monkeypatch.setattr(torch.export, "save", saving_nothing_that_loads)
    find = formats.find_spec
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == missing else find(name))
    (tmp_path / "older").write_text("older")
    with pytest.raises(Exception):  # noqa: B017 - each library raises its own
        export_classifier(classifier, tmp_path / target, format)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["older"]


class TestReplacing:
    @staticmethod
    def written(folder, *names):
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_text(f"{folder.name} {name}")
        return folder / "older"

    @staticmethod
    def contents(folder):
        return {file.name: file.read_text() for file in folder.iterdir()}

    @pytest.mark.parametrize("new", [["older"], ["older", "older.data"]])
    @pytest.mark.parametrize("old", [[], ["older"], ["older", "older.data"]])
    def test_the_files_of_an_earlier_export_are_replaced_together(self, tmp_path, old, new):
        written, file = self.written(tmp_path / "new", *new), self.written(tmp_path / "old", *old, "b.data")
        formats.move_into_place(written, file)
        assert self.contents(tmp_path / "old") == {
            "b.data": "old b.data",
            **{name: f"new {name}" for name in new},
        }

    def test_weights_of_another_file_are_not_replaced(self, tmp_path):
        written = self.written(tmp_path / "new", "older", "older.data")
        file = self.written(tmp_path / "old", "older.data")
        with pytest.raises(ValueError, match="older.data exists, but no older"):
            formats.move_into_place(written, file)
        assert self.contents(tmp_path / "old") == {"older.data": "old older.data"}

    @pytest.mark.parametrize("old", [[], ["older"], ["older", "older.data"]])
    @pytest.mark.parametrize("moves", range(4))
    def test_a_failure_between_two_moves_changes_nothing(self, tmp_path, monkeypatch, old, moves):
        written = self.written(tmp_path / "new", "older", "older.data")
        file = self.written(tmp_path / "old", *old)
        replace, done = os.replace, []

        def failing(*paths):
            done.append(paths)
            if len(done) == moves + 1:
                raise OSError("disk full")
            replace(*paths)

        monkeypatch.setattr(os, "replace", failing)
        if moves < len(old) + 2:
            with pytest.raises(OSError, match="disk full"):
                formats.move_into_place(written, file)
            assert self.contents(tmp_path / "old") == {name: f"old {name}" for name in old}


def test_a_file_that_was_there_survives_a_failure(classifier, tmp_path, monkeypatch):
    file = tmp_path / "classifier.pt2"
    file.write_text("older")
    monkeypatch.setattr(torch.export, "save", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_classifier(classifier, file, "torch_export")
    assert [f.name for f in tmp_path.iterdir()] == ["classifier.pt2"] and file.read_text() == "older"
