"""The frozen CLIP: the model in training, with its adapter disabled."""

import dataclasses

import pytest
import torch
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from peft_mudpt import demo
from peft_mudpt.classifier.texts import tokenize_classes
from peft_mudpt.lab.learner import Ground
from peft_mudpt.lab.methods import METHODS
from peft_mudpt.lab.training.frozen_clip import FrozenClip, frozen, frozen_text_bank, is_learned
from tests.lab.training.test_loop import NAMES, TOKENIZER, learner
from tests.lab.training.test_objectives import batch_of


PIXELS = batch_of(2)["pixel_values"]


def moved(method):
    """A model of which every learned parameter differs from its start, so that the adapter changes all features."""
    model = learner(method).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    return model


@pytest.mark.parametrize("method", ["mudpt", "lora"])
def test_its_image_features_are_those_of_the_plain_clip_without_dropout_and_gradient(method):
    config = CLIPConfig.from_pretrained(demo.MODEL_PATH)
    config.vision_config.attention_dropout = 0.5
    with pytest.MonkeyPatch.context() as patch:
        load = CLIPModel.from_pretrained
        patch.setattr(CLIPModel, "from_pretrained", lambda path: load(path, config=config))
        model = moved(method)
    plain = CLIPModel.from_pretrained(demo.MODEL_PATH).eval()
    with torch.no_grad():
        expected = normalize(plain.get_image_features(PIXELS).pooler_output, dim=-1)
    ours = FrozenClip(model).image_features(PIXELS)
    torch.testing.assert_close(ours, expected)
    assert not ours.requires_grad
    assert not torch.allclose(normalize(model.eval().get_image_features(PIXELS).pooler_output, dim=-1), expected)


@pytest.mark.parametrize("method", ["mudpt", "lora"])
def test_afterwards_modes_and_gradients_are_as_before(method):
    model = moved(method)
    model.get_base_model().text_model.eval()
    first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    first.requires_grad = False  # a part of the adapter that the user froze
    before = [module.training for module in model.modules()], [p.requires_grad for p in model.parameters()]
    with pytest.raises(ZeroDivisionError), frozen(model):
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError
    assert ([module.training for module in model.modules()], [p.requires_grad for p in model.parameters()]) == before


def test_its_text_bank_is_the_mean_of_the_plain_features_before_normalizing():
    texts = [[f"{name}.", f"a photo of a {name}.", f"a {name}."] for name in NAMES]
    model = moved("mudpt")
    frozen_clip = FrozenClip(model, frozen_text_bank(model, TOKENIZER, texts))
    plain = CLIPModel.from_pretrained(demo.MODEL_PATH).eval()
    with torch.no_grad():
        each = [
            plain.get_text_features(**tokenize_classes(TOKENIZER, NAMES, template)).pooler_output
            for template in ("{}.", "a photo of a {}.", "a {}.")
        ]
    torch.testing.assert_close(frozen_clip.text_bank, torch.stack(each).mean(dim=0), atol=1e-5, rtol=1e-5)
    cosine = FrozenClip(plain, frozen_clip.text_bank).logits(torch.eye(64)) / plain.logit_scale.exp().item()
    torch.testing.assert_close(cosine, normalize(torch.stack(each).mean(dim=0), dim=-1).t(), atol=1e-5, rtol=1e-5)


def test_known_features_in_half_precision_give_logits_like_those_in_single_precision():
    model = moved("mudpt")
    bank = frozen_text_bank(model, TOKENIZER, [["filled red star."], ["hollow blue heart."]])
    frozen_clip = FrozenClip(model, bank)
    features = frozen_clip.image_features(PIXELS)
    halved = frozen_clip.logits(features.to(torch.bfloat16))
    torch.testing.assert_close(halved, frozen_clip.logits(features.to(torch.bfloat16).float()))


@pytest.mark.parametrize(
    ("method", "fields", "text", "vision"),
    [
        ("mudpt", {}, True, True),
        ("coop", {}, True, False),
        ("vpt_deep", {}, False, True),
        ("mudpt", {"vision_prompt_depth": 0, "fusion_direction": "none"}, True, False),
        ("lora", {}, True, True),
        ("lora", {"target_modules": r".*text_model.*q_proj"}, True, False),
        ("lora", {"target_modules": ["visual_projection"]}, False, True),
    ],
)
def test_it_knows_which_features_training_changes(method, fields, text, vision):
    record = dataclasses.replace(METHODS[method])
    model = record.apply(Ground(CLIPModel.from_pretrained(demo.MODEL_PATH), TOKENIZER, NAMES, None, fields)).model
    assert (is_learned(model, "text"), is_learned(model, "vision")) == (text, vision)
