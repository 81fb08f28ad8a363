"""Text prompts that start above the input: what is below them is encoded once, and is never stale."""

import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy, normalize
from transformers import AttentionInterface

from peft_mudpt import MuDPTClassifier
from tests.classifier.conftest import NAMES, adapted, assert_fresh, expected_logits, refuse_masks
from tests.towers.test_families import FAMILIES, WORDS, Tokenizer, text_inputs
from tests.towers.test_families import NAMES as WORD_NAMES
from tests.towers.test_first_layer import adapted as adapted_family
from tests.towers.test_first_layer import text_features_by_hand


@pytest.fixture
def model():
    return adapted(first_layer=2)


@pytest.fixture
def runs(model):
    """How often each layer of the text tower has run."""
    counts = [0, 0, 0]

    def count(index):
        counts[index] += 1

    for index, layer in enumerate(model.text_model.encoder.layers):
        layer.register_forward_hook(lambda *_, index=index: count(index))
    return counts


def a_step(classifier, pixel_values, **options):
    optimizer = torch.optim.SGD([p for p in classifier.parameters() if p.requires_grad], lr=0.5, **options)
    cross_entropy(classifier(pixel_values).logits, torch.tensor([0, 1, 2, 0, 1])).backward()
    optimizer.step()


@pytest.mark.parametrize("class_batch_size", [None, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_class_features_are_those_of_the_tower_put_together_by_hand(family, class_batch_size):
    model = adapted_family(family, first_layer=1)
    classifier = MuDPTClassifier(model, WORD_NAMES, "{}.", Tokenizer(family), class_batch_size=class_batch_size)
    expected = normalize(text_features_by_hand(model, text_inputs(family, *WORDS)), dim=-1)
    torch.testing.assert_close(classifier.class_features(), expected, atol=2e-5, rtol=1e-4)
    assert len(classifier._class_features._kept_lower.constant) == (2 if class_batch_size else 1)  # they were used


def test_training_steps_run_the_layers_below_once(classifier, pixel_values, runs):
    for _ in range(3):
        a_step(classifier.train(), pixel_values)
    assert runs == [1, 1, 3]


@pytest.mark.parametrize("options", [{}, {"fused": True}])
def test_training_goes_where_it_goes_without_them(classifier, tokenizer, pixel_values, options, monkeypatch):
    other = MuDPTClassifier(adapted(first_layer=2), NAMES, "{}.", tokenizer)
    monkeypatch.setattr(other._class_features, "_lower_states", lambda model: None)
    for each in (classifier, other):
        for _ in range(2):
            a_step(each, pixel_values, **options)
    for mine, its in zip(classifier.parameters(), other.parameters()):
        torch.testing.assert_close(mine, its, atol=1e-6, rtol=1e-5)
    assert_fresh(classifier, tokenizer, pixel_values)


def test_weights_below_that_are_replaced_or_trained_are_noticed(classifier, model, tokenizer, pixel_values):
    a_step(classifier, pixel_values)
    weight = model.text_model.encoder.layers[0].mlp.fc1.weight
    with torch.no_grad():
        weight.mul_(1.5)
    assert_fresh(classifier, tokenizer, pixel_values)
    weight.requires_grad_(True)
    a_step(classifier, pixel_values, fused=True)
    weight.requires_grad_(False)
    assert_fresh(classifier, tokenizer, pixel_values)


def test_lora_below_the_prompts_is_trained(tokenizer, pixel_values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says that the model has an adapter already
        model = get_peft_model(adapted(first_layer=2), LoraConfig(target_modules=["q_proj"]), adapter_name="lora")
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "lora_B" in name
    a_step(classifier, pixel_values)
    names = {name: p for name, p in model.named_parameters() if "text_model.encoder.layers.0" in name}
    below = [parameter.grad for name, parameter in names.items() if "lora_B" in name]
    assert below and all(gradient.abs().sum() > 0 for gradient in below)
    assert_fresh(classifier, tokenizer, pixel_values)


def test_another_adapter_with_another_first_layer_is_noticed(classifier, model, tokenizer, pixel_values):
    assert_fresh(classifier, tokenizer, pixel_values)
    config = model.peft_config["default"]
    model.add_adapter("other", type(config)(first_layer=1, init_std=0.5))
    model.set_adapter("other")
    assert_fresh(classifier, tokenizer, pixel_values)
    model.set_adapter("default")
    with model.disable_adapter():
        assert_fresh(classifier, tokenizer, pixel_values)
    assert_fresh(classifier, tokenizer, pixel_values)


@torch.no_grad()
def test_attention_without_masks_gets_one_class_per_row(model, tokenizer, pixel_values):
    expected = expected_logits(model, tokenizer, pixel_values)
    AttentionInterface.register("refuses_masks", refuse_masks)
    model.get_base_model().set_attn_implementation("refuses_masks")
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer)
    torch.testing.assert_close(classifier(pixel_values).logits, expected, atol=1e-4, rtol=1e-5)
