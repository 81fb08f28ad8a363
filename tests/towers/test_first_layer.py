"""Prompts that start above the input: each family, against the parts of its towers put together by hand."""

import pytest
import torch
from peft import get_peft_model
from torch.nn.functional import cross_entropy

from peft_mudpt import MuDPTConfig, fold_adapter
from tests.conftest import checkpoint_layers
from tests.towers.test_families import FAMILIES, LENGTH, images, texts


def adapted(family, **fields):
    """An adapter on a model of the family, whose prompts are large enough to matter."""
    torch.manual_seed(1)
    return get_peft_model(FAMILIES[family](), MuDPTConfig(**{"init_std": 0.5, **fields})).eval()


def prompts_of(model, tower):
    """The prompts (n, d) of each layer, from the formulas alone."""
    adapter = model.prompt_learner.mudpt_adapters["default"]
    layers = adapter.layers[tower]
    return dict(zip(layers, adapter.effective(tower, layers)))


def through_layers(tower, hidden, prompts, place, mask=None):
    """Each layer gets its prompts at `place`: inserted before the first of them, overwritten before the others."""
    present = 0
    for index, layer in enumerate(tower.encoder.layers):
        own = prompts.get(index)
        if own is not None:
            own = own.expand(len(hidden), -1, -1)
            hidden = torch.cat([hidden[:, :place], own, hidden[:, place + present :]], dim=1)
            present = own.shape[1]
        hidden = layer(hidden, None if mask is None else mask(hidden.shape[1]))
    return torch.cat([hidden[:, :place], hidden[:, place + present :]], dim=1)


def causal(length):
    return torch.full((length, length), float("-inf")).triu(1)[None, None]


@torch.no_grad()
def image_features_by_hand(model, pixel_values):
    tower, prompts = model.vision_model, prompts_of(model, "vision")
    with model.disable_adapter():
        hidden = tower.embeddings(pixel_values)
        if hasattr(tower, "pre_layrnorm"):
            hidden = tower.pre_layrnorm(hidden)
        hidden = tower.post_layernorm(through_layers(tower, hidden, prompts, place=hidden.shape[1]))
        return tower.head(hidden) if hasattr(tower, "head") else model.visual_projection(hidden[:, 0])


@torch.no_grad()
def text_features_by_hand(model, ids):
    tower, prompts = model.text_model, prompts_of(model, "text")
    siglip = hasattr(tower, "head")
    with model.disable_adapter():
        hidden = through_layers(tower, tower.embeddings(ids), prompts, 0 if siglip else 1, None if siglip else causal)
        hidden = tower.final_layer_norm(hidden)
        if siglip:
            return tower.head(hidden[:, -1])
        return model.text_projection(hidden[ids == tower.eos_token_id])  # one EOS per row


STARTS = [dict(first_layer=1), dict(first_layer=2, prompt_depth=1), dict(text_first_layer=2, vision_first_layer=1)]


@pytest.mark.parametrize("fields", STARTS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_features_equal_those_of_the_towers_put_together_by_hand(family, fields):
    model, ids = adapted(family, **fields), texts(family, [5, 60, 7], [8])
    expected = text_features_by_hand(model, ids)
    torch.testing.assert_close(model.get_text_features(ids).pooler_output, expected, atol=2e-5, rtol=1e-4)
    expected = image_features_by_hand(model, images())
    torch.testing.assert_close(model.get_image_features(images()).pooler_output, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_over_padding_changes_nothing_of_a_causal_tower(family, attention):
    model, ids = adapted(family, first_layer=1), texts(family, [5, 60, 7], [8])
    model.set_attn_implementation(attention)
    expected = text_features_by_hand(model, ids)
    torch.testing.assert_close(model.get_text_features(ids).pooler_output, expected, atol=2e-5, rtol=1e-4)
    if family != "siglip":  # which ignores such masks, with a warning
        mask = (ids != 99).long()
        masked = model.get_text_features(ids, attention_mask=mask).pooler_output
        torch.testing.assert_close(masked, expected, atol=2e-5, rtol=1e-4)


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
    expected = text_features_by_hand(model, ids)
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
