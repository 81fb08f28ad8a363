"""Prompts that start above the input: each family, against the parts of its towers put together by hand."""

import pytest
import torch
from peft import get_peft_model
from torch.nn.functional import cross_entropy

from peft_mudpt import MuDPTConfig, fold_adapter
from tests.conftest import checkpoint_layers
from tests.towers.by_hand import text_by_hand, vision_by_hand
from tests.towers.test_families import FAMILIES, LENGTH, MASKED, PAD, images, text_inputs, texts


def adapted(family, **fields):
    """An adapter on a model of the family, whose prompts are large enough to matter."""
    torch.manual_seed(1)
    return get_peft_model(FAMILIES[family](), MuDPTConfig(**{"init_std": 0.5, **fields})).eval()


def prompts_of(model, tower):
    """The prompts (n, d) of each layer, from the formulas alone."""
    adapter = model.prompt_learner.mudpt_adapters["default"]
    layers = adapter.layers[tower]
    return dict(zip(layers, adapter.effective(tower, layers)))


def text_features_by_hand(model, inputs):
    return text_by_hand(model, **inputs, prompts=prompts_of(model, "text"))


STARTS = [dict(first_layer=1), dict(first_layer=2, prompt_depth=1), dict(text_first_layer=2, vision_first_layer=1)]


@pytest.mark.parametrize("fields", STARTS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_features_equal_those_of_the_towers_put_together_by_hand(family, fields):
    model, inputs = adapted(family, **fields), text_inputs(family, [5, 60, 7], [8])
    expected = text_features_by_hand(model, inputs)
    torch.testing.assert_close(model.get_text_features(**inputs).pooler_output, expected, atol=2e-5, rtol=1e-4)
    expected = vision_by_hand(model, images(), prompts_of(model, "vision"))
    torch.testing.assert_close(model.get_image_features(images()).pooler_output, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["clip", "metaclip_2"])
def test_a_mask_over_padding_changes_nothing_of_a_causal_tower(family, attention):
    model, ids = adapted(family, first_layer=1), texts(family, [5, 60, 7], [8])
    model.set_attn_implementation(attention)
    expected = text_features_by_hand(model, {"input_ids": ids})
    torch.testing.assert_close(model.get_text_features(ids).pooler_output, expected, atol=2e-5, rtol=1e-4)
    mask = (ids != PAD).long()
    masked = model.get_text_features(ids, attention_mask=mask).pooler_output
    torch.testing.assert_close(masked, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", MASKED)
def test_prompts_above_the_input_see_no_padding(family, attention):
    model, inputs = adapted(family, first_layer=1), text_inputs(family, [5, 60, 7], [8])
    model.set_attn_implementation(attention)
    expected = torch.cat([text_features_by_hand(model, text_inputs(family, words)) for words in ([5, 60, 7], [8])])
    torch.testing.assert_close(model.get_text_features(**inputs).pooler_output, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_outputs_keep_the_shapes_of_the_model_without_prompts():
    model, ids = adapted("clip", first_layer=1), texts("clip", [5, 60, 7], [8])
    outputs = model.text_model(ids, output_hidden_states=True)
    assert {tuple(state.shape) for state in outputs.hidden_states} == {(2, ids.shape[1], 32)}
    with model.disable_adapter():
        plain = model.text_model(ids, output_hidden_states=True)
    same = [torch.equal(mine, its) for mine, its in zip(outputs.hidden_states, plain.hidden_states)]
    assert same == [True, True, False, False]  # the input and the output of layer 0 are as without prompts
    assert model.vision_model(images()).last_hidden_state.shape[1] == 5


def test_a_text_that_fills_the_position_table_still_fits():
    model = adapted("clip", first_layer=1)
    ids = texts("clip", list(range(1, LENGTH - 1)))
    expected = text_features_by_hand(model, {"input_ids": ids})
    torch.testing.assert_close(model.get_text_features(ids).pooler_output, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = adapted("clip", first_layer=1).train()
        if checkpointing:
            checkpoint_layers(model, use_reentrant)
        ids = texts("clip", [5, 60, 7], [8])
        logits = model(input_ids=ids, attention_mask=(ids != 99).long(), pixel_values=images()).logits_per_image
        cross_entropy(logits, torch.tensor([0, 1, 1])).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_the_layers_below_need_no_graph():
    model = adapted("clip", first_layer=2).train()
    needed = {}
    for name, tower in (("text", model.text_model), ("vision", model.vision_model)):
        for index, layer in enumerate(tower.encoder.layers):
            layer.register_forward_hook(lambda _, args, output, key=(name, index): needed.update({key: output}))
    model(input_ids=texts("clip", [5, 60, 7]), pixel_values=images())
    assert [key for key, output in needed.items() if output.requires_grad] == [
        ("vision", 2),
        ("vision", 3),
        ("text", 2),
    ]


@torch.no_grad()
def test_compiled_it_is_one_graph():
    model = adapted("clip", first_layer=1)
    torch.compiler.reset()
    compiled = torch.compile(model.text_model, fullgraph=True, backend="eager")
    ids = texts("clip", [5, 60, 7], [8])
    torch.testing.assert_close(compiled(ids).pooler_output, model.text_model(ids).pooler_output)


@torch.no_grad()
def test_folding_changes_no_output():
    model, ids = adapted("clip", first_layer=1), texts("clip", [5, 60, 7], [8])
    before = model(input_ids=ids, pixel_values=images()).logits_per_image
    fold_adapter(model)
    assert torch.equal(model(input_ids=ids, pixel_values=images()).logits_per_image, before)
