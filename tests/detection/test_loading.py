"""Where the adapter, the base model and the classes of a detector are loaded from."""

import copy
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForZeroShotObjectDetection, GroundingDinoProcessor

from peft_mudpt import MuDPTClassifier, MuDPTConfig, SDPTConfig, demo
from peft_mudpt.classifier.loading import ModelSource
from peft_mudpt.detection import FusionDetector, prepare_detector_for_peft
from tests.classifier.test_loading import publish
from tests.conftest import build_clip
from tests.detection.conftest import build_detector
from tests.detection.test_detector import picture


NAMES = ["cat", "red star"]


def save_base(folder, tokenizer, image_processor):
    build_detector().save_pretrained(folder)
    GroundingDinoProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer, image_processor):
    """The folder of a detector with its tokenizer and its image processor."""
    return save_base(tmp_path_factory.mktemp("base"), tokenizer, image_processor)


def adapted(base, config):
    """A detector loaded from a folder, with an adapter."""
    model = AutoModelForZeroShotObjectDetection.from_pretrained(base)
    return get_peft_model(prepare_detector_for_peft(model), config)


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory):
    """A folder with an SDPT adapter that notes its classes, and the model it comes from."""
    model = adapted(base, SDPTConfig(class_names=NAMES))
    folder = tmp_path_factory.mktemp("sdpt")
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture
def no_weights(monkeypatch):
    """Fails the test if the weights of a base model are loaded."""
    for kind in ("detector", "clip"):
        monkeypatch.setattr(ModelSource, kind, lambda *_, **__: pytest.fail("weights were loaded"))


def found(detector):
    (detections,) = detector.predict([picture()], threshold=0)
    return detections.scores, detections.boxes, detections.labels


def assert_finds_the_same(first, second):
    assert all(map(torch.equal, found(first), found(second)))


def test_an_adapter_brings_its_detector_and_its_classes(saved):
    folder, model = saved
    detector = FusionDetector.from_pretrained(folder)
    assert detector.class_names == NAMES and not any(part.training for part in detector.modules())
    assert_finds_the_same(detector, FusionDetector(model))


def test_a_lora_adapter_brings_its_detector_but_no_classes(base, tmp_path):
    model = adapted(base, LoraConfig(target_modules=["vision_proj", "text_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path)
    assert_finds_the_same(FusionDetector.from_pretrained(tmp_path, NAMES), FusionDetector(model, NAMES))
    with pytest.raises(ValueError, match="Give class_names"):
        FusionDetector(model)


def test_options_reach_the_detector_and_its_model(saved):
    names = [f"{color} {kind}" for color in ("red", "white", "blood", "bird") for kind in ("cat", "dog", "star")]
    detector = FusionDetector.from_pretrained(
        saved[0], names, split_captions=True, loss_reduction="none", dtype=torch.float64
    )
    assert detector.class_names == names and len(detector.captions) == 2
    assert detector.model.dtype == torch.float64
    labels = [{"class_labels": torch.tensor([0]), "boxes": torch.full((1, 4), 0.5)}] * 2
    assert detector(torch.zeros(2, 3, 32, 32, dtype=torch.float64), labels=labels).loss.shape == (2,)


def test_each_part_comes_from_the_revision_that_the_arguments_and_the_adapter_say(
    saved, base, tmp_path, tokenizer, image_processor
):
    cache = tmp_path / "cache"
    publish(cache, "someone/detector", "v2", base)
    folder = shutil.copytree(saved[0], tmp_path / "repository" / "second")
    config = SDPTConfig.from_pretrained(folder)
    config.base_model_name_or_path, config.revision = "someone/detector", "v2"
    config.save_pretrained(folder)
    publish(cache, "someone/adapter", "v3", folder.parent)
    detector = FusionDetector.from_pretrained(
        "someone/adapter", revision="v3", subfolder="second", cache_dir=cache, local_files_only=True
    )
    assert_finds_the_same(detector, FusionDetector(saved[1]))
    with pytest.warns(UserWarning, match="trained on someone/detector, revision v2, but it is put on"):
        moved = FusionDetector.from_pretrained(folder, base_model_name_or_path=base)
    assert_finds_the_same(moved, detector)


class TestRefusing:
    """Each before any weights are loaded."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"base_model_name_or_path": demo.MODEL_PATH}, "type clip.*type grounding-dino or mm-grounding-dino"),
            ({"base_model_name_or_path": "/nowhere/detector"}, "/nowhere/detector is not a folder"),
            ({"subfolder": "second"}, "subfolder second"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:The adapter .* was trained on:UserWarning")
    def test_what_is_no_detector_or_not_there(self, saved, no_weights, arguments, message):
        with pytest.raises(ValueError, match=message):
            FusionDetector.from_pretrained(saved[0], **arguments)

    def test_a_folder_that_is_not_there(self, no_weights):
        with pytest.raises(ValueError, match="nowhere/adapter is neither a folder nor a Hub id"):
            FusionDetector.from_pretrained("nowhere/adapter", local_files_only=True)

    def test_no_classes(self, saved, tmp_path, no_weights):
        folder = shutil.copytree(saved[0], tmp_path / "adapter")
        config = SDPTConfig.from_pretrained(folder)
        config.class_names = None
        config.save_pretrained(folder)
        with pytest.raises(ValueError, match="Give class_names"):
            FusionDetector.from_pretrained(folder)

    def test_the_adapter_of_another_kind_of_model(self, saved, tmp_path, no_weights):
        get_peft_model(build_clip(), MuDPTConfig()).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="type MUDPT.*Load it with MuDPTClassifier.from_pretrained"):
            FusionDetector.from_pretrained(tmp_path, NAMES)
        with pytest.raises(ValueError, match="type SDPT.*Load it with FusionDetector.from_pretrained"):
            MuDPTClassifier.from_pretrained(saved[0], NAMES, "{}.")


class TestPreparing:
    def test_a_copy_of_the_detector_tells_its_own_embeddings(self, model):
        prepared = prepare_detector_for_peft(copy.deepcopy(model))
        twin = copy.deepcopy(prepared)
        for each in (prepared, twin):
            assert each.get_input_embeddings() is each.model.text_backbone.get_input_embeddings()

    def test_another_model_is_refused(self, model):
        with pytest.raises(ValueError, match="CLIPModel"):
            prepare_detector_for_peft(build_clip())
        with pytest.raises(ValueError, match="is a (MM)?GroundingDinoModel"):
            prepare_detector_for_peft(model.model)
