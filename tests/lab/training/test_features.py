"""Image features that training does not change are computed once, and give the same training."""

import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from peft_mudpt import MuDPTClassifier, demo
from peft_mudpt.lab.data import loading, memory
from peft_mudpt.lab.feature_cache import FeatureCache
from peft_mudpt.lab.learner import Ground
from peft_mudpt.lab.methods import find_method
from peft_mudpt.lab.training import pictures as training_pictures
from peft_mudpt.lab.training.checkpoints import Checkpoints, find_checkpoint, trainable_tensors
from peft_mudpt.lab.training.features import has_fixed_image_features, known_features
from peft_mudpt.lab.training.objectives import OBJECTIVES, CrossEntropy
from peft_mudpt.lab.training.pictures import train
from tests.conftest import reset_accelerator
from tests.lab.training.test_loop import NAMES, PROCESSOR, TOKENIZER, recipe_of


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
    monkeypatch.setattr(training_pictures, "known_features", lambda *arguments: ())


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
    opened, read = [], memory.picture
    memory.MEMORY.begin(0)  # forgets the pictures of other runs
    memory.MEMORY.begin(memory.DEFAULT_LIMIT)
    monkeypatch.setattr(memory, "picture", lambda example: opened.append(example["item"]) or read(example))
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
        known_features(Accelerator(), classifier_of("coop"), pictures, PROCESSOR, recipe_of(augment=True), True) == []
    )


def test_cached_views_are_random_crops_that_the_epochs_take_in_turn(pictures):
    classifier, seed = classifier_of("coop"), 5
    recipe = dataclasses.replace(recipe_of(augment=True), cached_views=2, seed=seed)
    known = known_features(Accelerator(), classifier, pictures, PROCESSOR, recipe)
    for number, view in enumerate(known):
        rngs = [np.random.default_rng([seed, number, index]) for index in range(len(pictures))]
        crops = [loading.random_resized_crop(loading.picture(e), demo.SIZE, r) for e, r in zip(pictures, rngs)]
        pixels = PROCESSOR(crops, return_tensors="pt", do_resize=False, do_center_crop=False).pixel_values
        expected = classifier.image_features(pixels).detach()
        torch.testing.assert_close(view["image_features"], expected, atol=1e-6, rtol=0)
    stream = loading.TrainingPictures(pictures, 5 * len(pictures), seed, demo.SIZE, PROCESSOR, known)
    for sample in (stream[i] for i in range(len(stream))):
        expected = known[sample["epoch"] % 2]["image_features"][sample["picture"]]
        assert torch.equal(sample["image_features"], expected) and "pixel_values" not in sample


def test_cached_views_of_a_method_that_changes_image_features_are_refused(pictures):
    recipe = dataclasses.replace(recipe_of(augment=True), cached_views=2)
    with pytest.raises(ValueError, match="--cached_views 2.* choose a method without vision prompts"):
        known_features(Accelerator(), classifier_of("mudpt"), pictures, PROCESSOR, recipe)


def test_cached_views_are_taken_from_an_earlier_run_only_if_they_are_the_same(pictures, tmp_path):
    cache, classifier = FeatureCache(tmp_path, 2**30), classifier_of("coop")

    def features(**fields):
        recipe = dataclasses.replace(recipe_of(augment=True), **{"cached_views": 2, **fields})
        known = known_features(Accelerator(), classifier, pictures, PROCESSOR, recipe, cache=cache)
        return torch.stack([view["image_features"] for view in known]), len(list(tmp_path.iterdir()))

    first, files = features()
    again, files_again = features()
    assert torch.equal(again, first) and files == files_again == 2
    more, files = features(cached_views=3)
    assert torch.equal(more[:2], first) and files == 3
    other, files = features(seed=99)
    assert not torch.equal(other, first) and files == 5


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
