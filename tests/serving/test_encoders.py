"""Two files that encode pictures and texts, against the model that they were written from."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from peft import get_peft_model
from tokenizers import Tokenizer as TokenizerFile
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo, export_encoders
from peft_mudpt.lab.probe import LinearProbe
from peft_mudpt.serving.formats import write
from peft_mudpt.serving.programs import text_program
from tests.conftest import of_two_layers
from tests.serving.test_exporting import NAMES
from tests.towers.test_families import FAMILIES, WORDS, Tokenizer, adapted, text_inputs
from tests.towers.test_families import NAMES as WORD_NAMES


OTHER_NAMES = ["filled star", "hollow red heart or something else", "x"]


def classifier_with(config):
    torch.manual_seed(1)
    model = get_peft_model(of_two_layers(CLIPModel.from_pretrained(demo.MODEL_PATH)), config).eval()
    return MuDPTClassifier(model, NAMES, "{}.")


@pytest.fixture(scope="module")
def classifier():
    return classifier_with(MuDPTConfig(init_std=0.5))


@pytest.fixture(scope="module")
def folder(classifier, tmp_path_factory):
    return export_encoders(classifier, tmp_path_factory.mktemp("onnx") / "new" / "encoders")


@pytest.fixture(scope="module")
def images():
    return torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def outputs(file, **inputs):
    session = onnxruntime.InferenceSession(file)
    names = [each.name for each in session.get_inputs()]
    assert names == list(inputs)
    return session.run(None, inputs)[0]


def token_ids(folder, texts):
    encoded = TokenizerFile.from_file(str(folder / "tokenizer.json")).encode_batch(texts)
    return np.array([text.ids for text in encoded])


@pytest.mark.parametrize("names", [OTHER_NAMES, ["circle"]], ids=["three", "one"])
def test_the_two_files_give_the_logits_of_classes_that_were_not_known_at_export(classifier, folder, images, names):
    settings = json.loads((folder / "encoders.json").read_text(encoding="utf-8"))
    ids = token_ids(folder, [settings["class_template"].replace("{}", name) for name in names])
    image_embeds = outputs(folder / "vision_model.onnx", pixel_values=images.numpy())
    text_embeds = outputs(folder / "text_model.onnx", input_ids=ids)
    found = settings["logit_scale"] * image_embeds @ text_embeds.T + settings["logit_bias"]
    expected = MuDPTClassifier(classifier.model, names, "{}.", classifier.tokenizer).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), expected(images).logits, atol=1e-3, rtol=0)
    np.testing.assert_allclose(np.linalg.norm(text_embeds, axis=1), 1, atol=1e-5)


def test_texts_padded_to_any_length_have_the_same_features(folder):
    ids = token_ids(folder, ["red star."])
    padded = np.pad(ids, [(0, 0), (0, 70 - ids.shape[1])], constant_values=ids[0, -1])
    found = [outputs(folder / "text_model.onnx", input_ids=each) for each in (ids, padded)]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_a_text_of_max_length_is_encoded_and_a_longer_one_is_refused(classifier, folder):
    room = json.loads((folder / "encoders.json").read_text())["max_length"]
    assert room == 77 - 4 == classifier.model.config.text_config.max_position_embeddings - 4
    bos, word, eos = token_ids(folder, ["x"])[0]
    text = [bos, *[word] * (room - 2), eos]
    with torch.no_grad():
        expected = normalize(classifier.model.get_text_features(torch.tensor([text])).pooler_output, dim=-1)
    found = outputs(folder / "text_model.onnx", input_ids=np.array([text]))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    with pytest.raises(Exception, match="out of bounds|out of data bounds"):
        outputs(folder / "text_model.onnx", input_ids=np.array([[bos, *[word] * (room - 1), eos]]))


def test_the_folder_loads_in_transformers_and_knows_the_classes(folder):
    assert sorted(file.name for file in folder.iterdir() if file.suffix == ".onnx") == [
        "text_model.onnx",
        "vision_model.onnx",
    ]
    assert AutoTokenizer.from_pretrained(folder)("red star.").input_ids == token_ids(folder, ["red star."])[0].tolist()
    assert AutoImageProcessor.from_pretrained(folder, backend="pil").crop_size == {"height": 32, "width": 32}
    settings = json.loads((folder / "encoders.json").read_text(encoding="utf-8"))
    assert settings["class_names"] == NAMES and "white" in settings["picture_rule"]


@pytest.mark.parametrize("family", ["siglip", "altclip"])  # of fixed length, and with a mask; CLIP's is tested above
def test_the_text_encoder_of_each_layout_gives_the_features_of_its_model(family, tmp_path):
    model = adapted(of_two_layers(FAMILIES[family]()))
    classifier = MuDPTClassifier(model, WORD_NAMES, "{}.", Tokenizer(family))
    program = text_program(classifier)
    write(program, tmp_path / "text_model.pt2", {}, "torch_export")
    inputs = text_inputs(family, *WORDS, [10, 11])
    with torch.no_grad():
        expected = normalize(model.get_text_features(**inputs).pooler_output, dim=-1)
    given = [inputs[name] for name in program.inputs]
    found = torch.export.load(tmp_path / "text_model.pt2").module()(*given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_torch_export_writes_both_files_also_of_prompts_that_start_above_the_input(images, tmp_path):
    classifier = classifier_with(MuDPTConfig(init_std=0.5, first_layer=1))
    folder = export_encoders(classifier, tmp_path / "encoders", "torch_export")
    vision, text = (torch.export.load(folder / f"{name}_model.pt2").module() for name in ("vision", "text"))
    with torch.no_grad():
        torch.testing.assert_close(vision(images), classifier.image_features(images), atol=1e-5, rtol=0)
        ids = torch.from_numpy(token_ids(folder, [f"{name}." for name in NAMES]))
        torch.testing.assert_close(text(ids), classifier.class_features(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("preset", "other"), [("cocoop", "image"), ("tcp", "class"), ("fed_dpt", "domains of the image")]
)
def test_text_features_that_depend_on_more_than_the_texts_are_refused(preset, other, tmp_path):
    model = get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), MuDPTConfig.from_preset(preset))
    with pytest.raises(ValueError, match=f"'default' depend on the {other}, .*export_classifier"):
        export_encoders(MuDPTClassifier(model, NAMES, "{}."), tmp_path / "encoders")
    assert list(tmp_path.iterdir()) == []


def test_a_linear_probe_which_has_no_text_encoder_is_refused(tmp_path):
    probe = LinearProbe(CLIPModel.from_pretrained(demo.MODEL_PATH), NAMES)
    with pytest.raises(ValueError, match="A LinearProbe has no text encoder.*export_classifier"):
        export_encoders(probe, tmp_path / "encoders")


def test_a_folder_that_exists_is_refused(classifier, tmp_path):
    with pytest.raises(ValueError, match="already exists; give a new folder"):
        export_encoders(classifier, tmp_path)


def test_an_error_leaves_nothing_behind(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "save", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_encoders(classifier, tmp_path / "new" / "encoders", "torch_export")
    assert list(tmp_path.iterdir()) == []
