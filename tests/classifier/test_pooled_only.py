"""In prediction, the last image layer computes after its attention what the pooled class token needs, and no more."""

import pytest
import torch
from peft import get_peft_model
from torch.nn.functional import normalize

from peft_mudpt import MuDPTClassifier, MuDPTConfig
from tests.classifier.conftest import NAMES, adapted
from tests.towers.test_families import FAMILIES


def tokens_of_last_mlp(model):
    """A list that gets the number of tokens on which the last image layer's MLP runs, in each forward."""
    seen = []
    last = model.vision_model.encoder.layers[-1]
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
    seen = tokens_of_last_mlp(model)
    with torch.no_grad():
        features = MuDPTClassifier(model, NAMES, "{}.", tokenizer).image_features(images)
    assert seen == [1]
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=0)


def test_training_and_the_model_itself_compute_all_tokens(model, tokenizer, images):
    seen = tokens_of_last_mlp(model)
    MuDPTClassifier(model, NAMES, "{}.", tokenizer).image_features(images)
    with torch.no_grad():
        output = model.vision_model(images)
    assert seen == [21, 21]  # the class token, 16 patches and 4 prompts
    assert output.last_hidden_state.shape[1] == 17


@torch.no_grad()
def test_an_image_tower_without_prompts_stays_whole_because_training_may_keep_its_features(tokenizer, images):
    model = adapted("coop")
    seen = tokens_of_last_mlp(model)
    MuDPTClassifier(model, NAMES, "{}.", tokenizer)(images)
    assert seen == [17]


@torch.no_grad()
@pytest.mark.parametrize(("family", "tokens"), [("clip", 1), ("metaclip_2", 1), ("siglip", 8)])
def test_a_head_that_pools_all_patches_gets_all_of_them(family, tokens):
    model = get_peft_model(FAMILIES[family](), MuDPTConfig()).eval()
    kind = model.prompt_learner.towers["vision"].kind
    config = model.config.vision_config
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    seen = tokens_of_last_mlp(model)
    pooled = kind.pooled(model.vision_model(pixels, mudpt_pooled_only=True))
    assert seen == [tokens]
    torch.testing.assert_close(pooled, kind.pooled(model.vision_model(pixels)), atol=1e-5, rtol=0)
