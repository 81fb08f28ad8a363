"""Prompts that depend on a condition of each sample: the seam, with an adapter that uses it."""

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy

from peft_mudpt import MuDPTConfig
from peft_mudpt.prompts.prompts import MultiModalPrompts
from tests.conftest import checkpoint_layers
from tests.towers.test_families import FAMILIES, images, texts


class Shifted(MultiModalPrompts):
    """The text prompts of one layer move by a linear map of the condition (B, 5)."""

    def __init__(self, config, layer):
        super().__init__(config)
        self.layer = layer
        self.shift = nn.Linear(5, config.text_hidden_size)

    def forward(self, modality, layers, condition=None):
        prompts = super().forward(modality, layers, condition)  # (1, k, n, d)
        if modality == "vision" or condition is None or self.layer not in layers:
            return prompts
        is_layer = torch.tensor([layer == self.layer for layer in layers])
        return prompts + self.shift(condition)[:, None, None] * is_layer[:, None, None]  # (B, k, n, d)


def conditioned(family, layer, **fields):
    """A model of the family with an adapter, of which the text prompts of one layer depend on the condition."""
    torch.manual_seed(1)
    model = get_peft_model(FAMILIES[family](), MuDPTConfig(**{"init_std": 0.5, **fields})).eval()
    plain = model.prompt_learner.mudpt_adapters["default"]
    double = Shifted(model.peft_config["default"], layer)
    double.load_state_dict(plain.state_dict(), strict=False)
    model.prompt_learner.mudpt_adapters["default"] = double
    return model, double


def conditions():
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(3))


def text_features(model, ids, condition=None):
    options = {} if condition is None else {"mudpt_condition": condition}
    return model.get_text_features(ids, **options).pooler_output


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_sample_has_the_features_of_prompts_shifted_by_its_own_condition(family, layer):
    model, double = conditioned(family, layer)
    ids, condition = texts(family, [5, 60, 7]).expand(3, -1), conditions()
    together = text_features(model, ids, condition)
    unconditioned = text_features(model, ids[:1])
    raw = double.text_prompts.clone()
    for i, shift in enumerate(double.shift(condition)):
        alone = text_features(model, ids[:1], condition[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=1e-5)
        double.text_prompts[layer] = raw[layer] + shift
        torch.testing.assert_close(text_features(model, ids[:1]), alone, atol=1e-6, rtol=1e-5)
        double.text_prompts.copy_(raw)
        assert not torch.allclose(alone, unconditioned, atol=1e-2)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_no_gradient(family, layer, use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model, _ = conditioned(family, layer)
        if checkpointing:
            checkpoint_layers(model, use_reentrant)
        features = text_features(model.train(), texts(family, [5, 6], [7], [8]), conditions())
        cross_entropy(features, torch.tensor([0, 1, 1])).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any("shift" in name for name in gradients[0])
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_a_forward_of_the_whole_model_conditions_its_texts_alone():
    model, _ = conditioned("clip", 0)
    ids = texts("clip", [5, 6], [7], [8])
    outputs = model(input_ids=ids, pixel_values=images(), mudpt_condition=conditions())
    plain = model(input_ids=ids, pixel_values=images())
    assert torch.equal(outputs.image_embeds, plain.image_embeds)
    expected = nn.functional.normalize(text_features(model, ids, conditions()), dim=-1)
    torch.testing.assert_close(outputs.text_embeds, expected)


@torch.no_grad()
def test_a_disabled_adapter_ignores_the_condition():
    model, _ = conditioned("clip", 1)
    ids = texts("clip", [5, 6], [7], [8])
    with model.disable_adapter():
        assert torch.equal(text_features(model, ids, conditions()), text_features(model, ids))


@torch.no_grad()
def test_compiled_it_is_one_graph():
    model, _ = conditioned("clip", 0)
    torch.compiler.reset()
    compiled = torch.compile(model.text_model, fullgraph=True, backend="aot_eager")
    ids = texts("clip", [5, 6], [7], [8])
    expected = model.text_model(ids, mudpt_condition=conditions()).pooler_output
    torch.testing.assert_close(compiled(ids, mudpt_condition=conditions()).pooler_output, expected)


@pytest.mark.parametrize("layer", [0, 1])
def test_conditions_of_another_number_than_the_texts_are_refused(layer):
    model, _ = conditioned("clip", layer)
    with pytest.raises(ValueError, match="mudpt_condition.* 3 samples.* 2"):
        text_features(model, texts("clip", [5], [6]), conditions())


@torch.no_grad()
def test_a_condition_changes_nothing_where_no_prompt_depends_on_it():
    torch.manual_seed(1)
    model = get_peft_model(FAMILIES["clip"](), MuDPTConfig(init_std=0.5)).eval()
    ids = texts("clip", [5, 6], [7], [8])
    assert torch.equal(text_features(model, ids, conditions()), text_features(model, ids))
