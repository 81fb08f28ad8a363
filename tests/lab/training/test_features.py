"""Image features that training does not change are computed once, and give the same training."""

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from peft_mudpt import MuDPTClassifier, demo
from peft_mudpt.lab.data import loading
from peft_mudpt.lab.learner import Ground
from peft_mudpt.lab.methods import find_method
from peft_mudpt.lab.training import pictures as training_pictures
from peft_mudpt.lab.training.checkpoints import Checkpoints, find_checkpoint, trainable_tensors
from peft_mudpt.lab.training.features import has_fixed_image_features, known_features
from peft_mudpt.lab.training.objectives import OBJECTIVES, CrossEntropy
from peft_mudpt.lab.training.pictures import train
from tests.conftest import reset_accelerator
from tests.lab.training.test_loop import NAMES, PROCESSOR, TOKENIZER, pictures, recipe_of


__all__ = ["pictures"]  # a fixture
pytestmark = pytest.mark.usefixtures("fresh_accelerator")
TEXT_ONLY = {"prompt_depth": 2, "vision_prompt_depth": 0, "fusion_direction": "none"}
TRAINED_ON_FEATURES = [("coop", {}), ("cocoop", {}), ("linear_probe", {}), ("mudpt", TEXT_ONLY)]
TEXT_LORA = LoraConfig(target_modules=r"text_model\..*\.q_proj", lora_dropout=0.5)
PROJECTION = LoraConfig(target_modules=r"text_model\..*\.q_proj", modules_to_save=["visual_projection"])


def classifier_of(method, fields=None, clip=None):
    """The classifier that a method trains; `method` may also be the config of an adapter."""
    torch.manual_seed(0)
    ground = Ground(clip or CLIPModel.from_pretrained(demo.MODEL_PATH), TOKENIZER, NAMES, None, fields or {})
    learner = find_method(method).apply(ground) if isinstance(method, str) else ground.add_adapter(method)
    if method == "linear_probe":
        return learner.model.train()
    return MuDPTClassifier(learner.model, NAMES, "{}.", TOKENIZER, PROCESSOR).train()


def clip_with_dropout(tower):
    config = CLIPConfig.from_pretrained(demo.MODEL_PATH)
    getattr(config, tower).attention_dropout = 0.5
    return CLIPModel.from_pretrained(demo.MODEL_PATH, config=config)


def learned(pictures, folder, recipe, method, fields=None, precision="no", resume=None, every=None):
    reset_accelerator()
    accelerator = Accelerator(mixed_precision=precision)
    classifier = classifier_of(method, fields)
    checkpoints = Checkpoints(folder, {"seed": 3}, every, find_checkpoint(folder, resume, {"seed": 3}))
    train(accelerator, classifier, pictures, PROCESSOR, recipe, checkpoints)
    return {name: tensor.detach().clone() for name, tensor in trainable_tensors(classifier).items()}


def encode_in_each_step(monkeypatch):
    monkeypatch.setattr(training_pictures, "known_features", lambda *arguments: {})


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize(("method", "fields"), TRAINED_ON_FEATURES, ids=str)
def test_training_ends_with_the_weights_of_training_on_pixels(
    pictures, tmp_path, monkeypatch, method, fields, precision
):
    recipe = recipe_of(augment=False, steps=4)  # 16 samples of 12 pictures
    once = learned(pictures, tmp_path, recipe, method, fields, precision)
    encode_in_each_step(monkeypatch)
    for name, expected in learned(pictures, tmp_path, recipe, method, fields, precision).items():
        torch.testing.assert_close(once[name], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", ["coop", "linear_probe"])
def test_each_picture_is_opened_once(pictures, tmp_path, monkeypatch, method):
    opened, read = [], loading.picture
    monkeypatch.setattr(loading, "picture", lambda example: opened.append(example["item"]) or read(example))
    learned(pictures, tmp_path, recipe_of(augment=False, steps=4), method)  # 16 samples of 12 pictures
    assert sorted(opened) == sorted(pictures["item"])


def test_a_run_that_began_on_pixels_resumes_and_one_on_features_resumes_bit_for_bit(pictures, tmp_path, monkeypatch):
    recipe = recipe_of(augment=False)
    whole = learned(pictures, tmp_path / "whole", recipe, "coop", every=4)
    resumed = learned(pictures, tmp_path / "whole", recipe, "coop", resume="latest")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    with monkeypatch.context() as earlier:
        encode_in_each_step(earlier)
        learned(pictures, tmp_path / "earlier", recipe, "coop", every=4)
    for name, tensor in learned(pictures, tmp_path / "earlier", recipe, "coop", resume="latest").items():
        torch.testing.assert_close(tensor, whole[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "fields", "tower", "fixed"),
    [
        ("coop", {}, None, True),
        ("linear_probe", {}, None, True),
        ("mudpt", TEXT_ONLY, None, True),
        (TEXT_LORA, {}, None, True),
        ("coop", {}, "text_config", True),
        ("mudpt", {}, None, False),
        ("vpt_deep", {"prompt_depth": 1}, None, False),
        ("lora", {}, None, False),
        (PROJECTION, {}, None, False),
        ("coop", {}, "vision_config", False),
    ],
    ids=["coop", "probe", "text", "text_lora", "text_dropout", "mudpt", "vpt", "lora", "projection", "dropout"],
)
def test_the_model_itself_says_whether_training_changes_image_features(method, fields, tower, fixed):
    classifier = classifier_of(method, fields, tower and clip_with_dropout(tower))
    before = torch.get_rng_state()
    assert has_fixed_image_features(classifier) is fixed
    assert torch.equal(torch.get_rng_state(), before)


def test_features_of_augmented_pictures_are_not_computed_once(pictures):
    assert (
        known_features(Accelerator(), classifier_of("coop"), pictures, PROCESSOR, recipe_of(augment=True), True) == {}
    )


@pytest.mark.parametrize("method", ["mudpt", "coop"])
def test_an_objective_may_ask_for_the_features_of_plain_clip(pictures, tmp_path, monkeypatch, method):
    batches = []

    class Asking(CrossEntropy):
        needs_frozen_image_features = True

        def loss(self, classifier, batch):
            batches.append({name: tensor.clone() for name, tensor in batch.items()})
            return super().loss(classifier, batch)

    monkeypatch.setitem(OBJECTIVES, "asking", Asking)
    learned(pictures, tmp_path, recipe_of(objective="asking", augment=False, steps=3), method)
    plain = CLIPModel.from_pretrained(demo.MODEL_PATH)
    for batch in batches:
        if method == "coop":
            expected = batch["image_features"]
        else:
            expected = normalize(plain.get_image_features(pixel_values=batch["pixel_values"]).pooler_output, dim=-1)
        torch.testing.assert_close(batch["frozen_image_features"], expected.detach())
    assert len(batches) == 3
