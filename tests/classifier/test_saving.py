"""Saving an adapter with the classes of its classifier."""

import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import CLIPModel

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo, set_image_size
from peft_mudpt.calibration.calibration import Calibration
from peft_mudpt.lab.run_classifier import load_classifier
from tests.classifier.conftest import NAMES


SENTENCES = {name: [f"a {name}.", f"this is {name}"] for name in NAMES}
TEXTS = [
    {"template": "{}, drawn."},
    {"template": ["a {}.", "{}"]},
    {"descriptions": SENTENCES},
    {"template": "a {}.", "descriptions": SENTENCES},
]
CALIBRATION = Calibration(1.25, [[0.25, 0.5], [], [0.125]])
FILES = {"adapter_config.json", "adapter_model.safetensors"}


def adapted(kind: str, name: str = "default") -> PeftModel:
    """The embedded CLIP with an adapter whose weights are large enough to matter."""
    torch.manual_seed(1)
    config = {
        "vpt_deep": MuDPTConfig.from_preset("vpt_deep", init_std=0.5),
        "lora": LoraConfig(target_modules=["q_proj"], init_lora_weights=False),
    }[kind]
    return get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), config, adapter_name=name).eval()


def made(kind="lora", name="default", **texts) -> MuDPTClassifier:
    return MuDPTClassifier(adapted(kind, name), NAMES, **(texts or {"template": "{}."}))


def assert_equal(one: MuDPTClassifier, other: MuDPTClassifier, pixel_values) -> None:
    assert (one.class_names, one.class_texts, one.template) == (other.class_names, other.class_texts, other.template)
    assert one.calibration == other.calibration
    with torch.no_grad():
        assert torch.equal(one(pixel_values).logits, other(pixel_values).logits)


@pytest.mark.parametrize("kind", ["vpt_deep", "lora"])
@pytest.mark.parametrize("texts", TEXTS, ids=lambda texts: "+".join(texts))
@pytest.mark.parametrize("calibration", [None, CALIBRATION], ids=["", "calibrated"])
def test_a_saved_classifier_is_loaded_as_it_was(kind, texts, calibration, pixel_values, tmp_path):
    classifier = made(kind, **texts)
    classifier.calibration = calibration
    classifier.save_pretrained(tmp_path / "saved")
    assert_equal(MuDPTClassifier.from_pretrained(tmp_path / "saved"), classifier, pixel_values)
    assert_equal(load_classifier(tmp_path / "saved"), classifier, pixel_values)


@pytest.mark.parametrize("kind", ["vpt_deep", "lora"])
class TestImageSize:
    def test_a_saved_classifier_takes_images_of_its_size_again(self, kind, tmp_path):
        classifier = made(kind)
        set_image_size(classifier.model, 48)
        classifier.save_pretrained(tmp_path)
        loaded = MuDPTClassifier.from_pretrained(tmp_path)
        assert_equal(loaded, classifier, torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)))
        assert dict(loaded.image_processor.crop_size) == {"height": 48, "width": 48}

    def test_the_size_that_is_asked_for_wins_and_is_saved_again(self, kind, tmp_path):
        made(kind).save_pretrained(tmp_path / "first")
        MuDPTClassifier.from_pretrained(tmp_path / "first", image_size=48).save_pretrained(tmp_path / "second")
        loaded = MuDPTClassifier.from_pretrained(tmp_path / "second")
        assert loaded.model.config.vision_config.image_size == 48
        assert (
            MuDPTClassifier.from_pretrained(tmp_path / "second", image_size=32).model.config.vision_config.image_size
            == 32
        )

    @pytest.mark.parametrize("image_size", [None, 32, 48])
    def test_a_calibration_holds_only_for_images_of_its_size(self, kind, image_size, tmp_path):
        classifier = made(kind)
        classifier.calibration = CALIBRATION
        classifier.save_pretrained(tmp_path / "first")
        loaded = MuDPTClassifier.from_pretrained(tmp_path / "first", image_size=image_size)
        loaded.save_pretrained(tmp_path / "second")
        expected = None if image_size == 48 else CALIBRATION
        assert loaded.calibration == MuDPTClassifier.from_pretrained(tmp_path / "second").calibration == expected

    def test_what_is_saved_is_the_size_that_the_classifier_takes(self, kind, pixel_values, tmp_path):
        larger = adapted(kind)
        set_image_size(larger, 48)
        larger.save_pretrained(tmp_path / "first")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This adapter is for images of 48 x 48 pixels")
            model = PeftModel.from_pretrained(CLIPModel.from_pretrained(demo.MODEL_PATH), tmp_path / "first").eval()
        classifier = MuDPTClassifier(model, NAMES, "{}.")
        classifier.save_pretrained(tmp_path / "second")
        assert_equal(MuDPTClassifier.from_pretrained(tmp_path / "second"), classifier, pixel_values)

    def test_an_adapter_that_records_none_takes_those_of_its_clip(self, kind, pixel_values, tmp_path):
        classifier = made(kind)
        classifier.save_pretrained(tmp_path)
        file = tmp_path / ("adapter_classes.json" if kind == "lora" else "adapter_config.json")
        stored = json.loads(file.read_text())
        assert stored.pop("image_size") == 32
        file.write_text(json.dumps(stored))
        assert_equal(MuDPTClassifier.from_pretrained(tmp_path), classifier, pixel_values)


@pytest.mark.parametrize("kind", ["vpt_deep", "lora"])
def test_only_the_active_adapter_is_saved_in_the_folder_itself(kind, pixel_values, tmp_path):
    classifier = made(kind, "mine")
    classifier.model.add_adapter("other", classifier.model.peft_config["mine"])
    classifier.save_pretrained(tmp_path)
    extra = {"adapter_classes.json"} if kind == "lora" else set()
    assert {file.name for file in tmp_path.iterdir()} == FILES | extra
    assert_equal(MuDPTClassifier.from_pretrained(tmp_path), classifier, pixel_values)


def test_peft_loads_the_saved_adapter(pixel_values, tmp_path):
    classifier = made()
    classifier.save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(CLIPModel.from_pretrained(demo.MODEL_PATH), tmp_path).eval()
    assert_equal(MuDPTClassifier(model, NAMES, "{}."), classifier, pixel_values)


def test_saving_changes_neither_the_model_nor_its_config(tmp_path):
    classifier = made("vpt_deep")
    before = classifier.model.peft_config["default"].to_dict()
    classifier.save_pretrained(tmp_path)
    assert {**classifier.model.peft_config["default"].to_dict(), "base_model_name_or_path": None} == {
        **before,
        "base_model_name_or_path": None,
    }


@pytest.mark.parametrize("kind", ["vpt_deep", "lora"])
def test_an_adapter_is_replaced_only_if_asked(kind, pixel_values, tmp_path):
    first, second = made("lora", template="a {}."), made(kind)
    first.save_pretrained(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds an adapter already .adapter_config.json, .*overwrite"):
        second.save_pretrained(tmp_path)
    assert_equal(MuDPTClassifier.from_pretrained(tmp_path), first, pixel_values)
    second.save_pretrained(tmp_path, overwrite=True)
    assert_equal(MuDPTClassifier.from_pretrained(tmp_path), second, pixel_values)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_failed_save_leaves_the_older_adapter_whole(pixel_values, tmp_path, monkeypatch):
    first = made(template="a {}.")
    first.save_pretrained(tmp_path)

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("peft.peft_model.safe_save_file", full)
    with pytest.raises(OSError, match="no space"):
        made().save_pretrained(tmp_path, overwrite=True)
    assert {file.name for file in tmp_path.iterdir()} == FILES | {"adapter_classes.json"}
    assert_equal(MuDPTClassifier.from_pretrained(tmp_path), first, pixel_values)


def test_other_classes_can_be_given_for_a_loaded_adapter(tmp_path):
    classifier = made(template="{}, drawn.")
    classifier.calibration = CALIBRATION
    classifier.save_pretrained(tmp_path)
    other = MuDPTClassifier.from_pretrained(tmp_path, ["cat", "dog"])
    assert other.class_texts == [["cat, drawn."], ["dog, drawn."]] and other.calibration is None
    assert MuDPTClassifier.from_pretrained(tmp_path, template="a {}.").calibration is None


def test_a_model_without_exactly_one_active_adapter_is_refused(tmp_path):
    plain = MuDPTClassifier(CLIPModel.from_pretrained(demo.MODEL_PATH), NAMES, "{}.")
    with pytest.raises(ValueError, match="CLIPModel, .*get_peft_model"):
        plain.save_pretrained(tmp_path)
    classifier = made("vpt_deep")
    with classifier.model.disable_adapter(), pytest.raises(ValueError, match="set_adapter"):
        classifier.save_pretrained(tmp_path)
    several = made("lora", "one")
    several.model.add_adapter("two", several.model.peft_config["one"])
    several.model.base_model.set_adapter(["one", "two"])
    with pytest.raises(ValueError, match="2 are active"):
        several.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is a file"):
        made().save_pretrained(tmp_path / "file")


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: "[]",
        lambda stored: "{",
        lambda stored: json.dumps({**stored, "class_names": []}),
        lambda stored: json.dumps({**stored, "template": "no place"}),
        lambda stored: json.dumps({**stored, "calibration": {"temperature": "hot", "scores": []}}),
        lambda stored: json.dumps({**stored, "image_size": "large"}),
        lambda stored: json.dumps({"class_names": NAMES}),
    ],
)
def test_a_damaged_file_of_classes_is_named(tmp_path, damage):
    made().save_pretrained(tmp_path)
    file = tmp_path / "adapter_classes.json"
    file.write_text(damage(json.loads(file.read_text())))
    with pytest.raises(ValueError, match="adapter_classes.json is damaged"):
        MuDPTClassifier.from_pretrained(tmp_path)
