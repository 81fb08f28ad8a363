"""The last layer computes after its attention what the pooled tokens need, and no more."""

import pytest
import torch
from peft import get_peft_model
from torch.nn.functional import normalize

from peft_mudpt import MuDPTClassifier, MuDPTConfig
from peft_mudpt.towers.base import PromptedTower
from tests.classifier.conftest import NAMES, adapted
from tests.conftest import checkpoint_layers
from tests.towers.test_families import FAMILIES


def tokens_of_last_mlp(tower):
    """A list that gets the number of tokens in a row on which the last layer's MLP runs, in each forward."""
    seen = []
    last = tower.encoder.layers[-1]
    last.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    return seen


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("fields", [{}, {"prompt_depth": "all"}, {"first_layer": 1}], ids=str)
def test_prediction_shortens_the_last_layer_and_gives_the_same_features(tokenizer, images, attention, fields):
    model = adapted(**fields)
    model.set_attn_implementation(attention)
    expected = normalize(model.get_image_features(images).pooler_output, dim=-1)
    seen = tokens_of_last_mlp(model.vision_model)
    with torch.no_grad():
        features = MuDPTClassifier(model, NAMES, "{}.", tokenizer).image_features(images)
    assert seen == [1]
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=0)


def gradients_of(classifier, images):
    classifier.model.zero_grad()
    classifier(images).logits.square().sum().backward()
    return {name: weight.grad.clone() for name, weight in classifier.model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("preset", "fields"),
    [
        *((preset, {}) for preset in ("mudpt", "maple", "coop", "cocoop", "tcp", "fed_dpt")),
        ("mudpt", {"first_layer": 1}),
        ("ivlp", {"first_layer": 2, "prompt_depth": 1}),
    ],
)
def test_training_gets_the_gradients_of_towers_that_compute_all_tokens(tokenizer, images, monkeypatch, preset, fields):
    classifier = MuDPTClassifier(adapted(preset, **fields), NAMES, "{}.", tokenizer)
    shortened = gradients_of(classifier, images)
    monkeypatch.setattr(PromptedTower, "shortened", lambda self, encoder: None)
    for name, gradient in gradients_of(classifier, images).items():
        torch.testing.assert_close(shortened[name], gradient, atol=1e-5, rtol=1e-4)


def test_a_step_computes_the_class_token_of_an_image_and_the_last_token_of_a_class(model, tokenizer, images):
    of_images, of_texts = tokens_of_last_mlp(model.vision_model), tokens_of_last_mlp(model.text_model)
    gradients_of(MuDPTClassifier(model, NAMES, "{}.", tokenizer), images)
    assert (of_images, of_texts) == ([1], [len(NAMES)])


def test_layers_that_are_checkpointed_and_the_model_itself_compute_all_tokens(model, tokenizer, images):
    of_images, of_texts = tokens_of_last_mlp(model.vision_model), tokens_of_last_mlp(model.text_model)
    model(input_ids=torch.tensor([[589, 1, 590]]), pixel_values=images[:1])
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer).train()
    checkpoint_layers(classifier, use_reentrant=False)
    classifier(images)
    assert (set(of_images), min(of_texts)) == ({21}, 3 + 4)  # the class token, 16 patches and 4 prompts


@torch.no_grad()
def test_an_image_tower_without_prompts_stays_whole_because_training_may_keep_its_features(tokenizer, images):
    model = adapted("coop")
    seen = tokens_of_last_mlp(model.vision_model)
    MuDPTClassifier(model, NAMES, "{}.", tokenizer)(images)
    assert seen == [17]


@torch.no_grad()
@pytest.mark.parametrize(("family", "tokens"), [("clip", 1), ("metaclip_2", 1), ("siglip", 8), ("altclip", 1)])
def test_a_head_that_pools_all_patches_gets_all_of_them(family, tokens):
    model = get_peft_model(FAMILIES[family](), MuDPTConfig()).eval()
    kind = model.prompt_learner.towers["vision"].kind
    config = model.config.vision_config
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    seen = tokens_of_last_mlp(model.vision_model)
    pooled = kind.pooled(model.vision_model(pixels, mudpt_pooled_only=True))
    assert seen == [tokens]
    torch.testing.assert_close(pooled, kind.pooled(model.vision_model(pixels)), atol=1e-5, rtol=0)
