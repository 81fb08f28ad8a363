"""A classifier of an adapter that has learned a logit scale."""

import pytest
import torch
from torch.nn.functional import normalize

from peft_mudpt import MuDPTClassifier
from peft_mudpt.serving.programs import classifier_program
from tests.classifier.conftest import NAMES, adapted, expected_logits


def learned(preset="mudpt", **fields):
    model = adapted(preset, learn_logit_scale=True, **fields)
    model.prompt_learner.mudpt_adapters["default"].logit_shift.scale.data.fill_(-0.7)
    return model


@torch.no_grad()
@pytest.mark.parametrize("preset", ["mudpt", "cocoop", "fed_dpt"])
def test_its_logits_are_those_of_the_models_own_forward(preset, tokenizer, pixel_values):
    model = learned(preset, **({"num_domains": 2} if preset == "fed_dpt" else {}))
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer)
    torch.testing.assert_close(classifier(pixel_values).logits, expected_logits(model, tokenizer, pixel_values))


@torch.no_grad()
def test_its_linear_head_has_the_learned_scale(tokenizer, pixel_values):
    classifier = MuDPTClassifier(learned(), NAMES, "{}.", tokenizer)
    weights, _ = classifier.linear_head()
    features = normalize(classifier.model.get_image_features(pixel_values).pooler_output, dim=-1)
    torch.testing.assert_close(features @ weights.t(), classifier(pixel_values).logits)


@torch.no_grad()
def test_domains_are_exported_with_the_learned_scale(tokenizer, pixel_values):
    classifier = MuDPTClassifier(learned("fed_dpt", num_domains=2), NAMES, "{}.", tokenizer)
    probabilities = classifier(pixel_values).logits.softmax(dim=-1)
    torch.testing.assert_close(classifier_program(classifier).module(pixel_values), probabilities)
