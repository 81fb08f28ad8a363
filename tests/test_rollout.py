"""Attention rollout, against an absorbing Markov chain over all tokens, with attention computed by hand."""

import pytest
import torch
from peft import get_peft_model

from peft_mudpt import MuDPTConfig
from peft_mudpt.rollout import attention_rollout
from peft_mudpt.towers.base import part
from peft_mudpt.towers.registry import find_towers
from tests.conftest import build_clip, build_inputs
from tests.towers.test_families import FAMILIES, siglip
from tests.towers.test_vit import vit


N = 3
PIXELS = build_inputs()["pixel_values"]
PLACES = {  # of the prompts among the 4 layers: the first layer with prompts, and in how many they are new
    "input": (0, 1),
    "lower layers": (0, 3),
    "all layers": (0, "all"),
    "upper layers": (2, "all"),
    "middle layers": (1, 2),
}
MODELS = {name: build for name, build in FAMILIES.items() if name != "siglip"}  # which has no class token


def adapted(model, first_layer=0, depth="all"):
    torch.manual_seed(1)
    fields = dict(num_virtual_tokens=N, init_std=0.5, first_layer=first_layer, vision_prompt_depth=depth)
    return get_peft_model(model, MuDPTConfig.from_preset("vpt_deep", **fields)).eval()


@torch.no_grad()
def weights_by_hand(model):
    """The attention of each layer, averaged over heads: softmax(q k' / sqrt(d))."""
    _, tower, kind = find_towers(model)["vision"]
    weights = []

    def see(attention, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        projections = attention.q_proj(hidden), attention.k_proj(hidden)
        q, k = (x.unflatten(2, (part(attention, kind.num_heads), -1)).transpose(1, 2) for x in projections)
        weights.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1))

    layers = part(part(tower, kind.encoder), kind.layers)
    hooks = [part(layer, kind.attention).register_forward_pre_hook(see, with_kwargs=True) for layer in layers]
    tower(PIXELS)
    for hook in hooks:
        hook.remove()
    return weights


def where_walks_end(weights, added):
    """
    Walks from the class token down through the layers. A state for each token and one for each layer, in which a walk
    ends that comes to a new prompt of this layer. The probabilities (B, L + n + M) of the states.
    """
    layers, tokens = len(weights), max(w.shape[-1] for w in weights)
    states = torch.eye(tokens + layers)
    total = states.expand(len(PIXELS), -1, -1)
    for index, layer in enumerate(weights):
        step = states.repeat(len(PIXELS), 1, 1)
        size = layer.shape[-1]
        step[:, :size, :size] = 0.5 * (layer + torch.eye(size))
        ends = states.clone()
        if index in added:
            ends[tokens - N : tokens] = states[tokens + index]
        total = step @ ends @ total  # the walk takes this step before those of the layers below
    return total[:, 0]


@pytest.mark.parametrize("family", MODELS)
def test_without_an_adapter_it_is_the_product_of_all_layers(family):
    model = MODELS[family]()
    product = torch.linalg.multi_dot  # of matrices without a batch
    layers = [(layer + torch.eye(layer.shape[-1])) / 2 for layer in weights_by_hand(model)]
    rows = torch.stack([product([layer[image] for layer in reversed(layers)])[0] for image in range(len(PIXELS))])
    found = attention_rollout(model, PIXELS)
    torch.testing.assert_close(found.patches.flatten(1), rows[:, -4:])
    torch.testing.assert_close(found.class_token, rows[:, 0])
    assert not found.prompts.any()
    torch.testing.assert_close(found.registers, 1 - rows[:, 0] - rows[:, -4:].sum(dim=1))


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("place", PLACES)
def test_what_reaches_new_prompts_of_a_layer_ends_there(place, family):
    first, depth = PLACES[place]
    model = adapted(MODELS[family](), first, depth)
    added = range(first, 4 if depth == "all" else first + depth)
    found = attention_rollout(model, PIXELS)
    ends = where_walks_end(weights_by_hand(model), added)
    torch.testing.assert_close(found.prompts, ends[:, -4:])
    assert (found.prompts > 0).tolist() == [[index in added for index in range(4)]] * len(PIXELS)
    torch.testing.assert_close(found.patches.flatten(1), ends[:, -4 - N - 4 : -4 - N])
    torch.testing.assert_close(found.class_token, ends[:, 0])
    shares = found.patches.sum(dim=(1, 2)) + found.class_token + found.prompts.sum(dim=1) + found.registers
    torch.testing.assert_close(shares, torch.ones(len(PIXELS)))


def test_a_vision_tower_that_stands_alone_is_enough():
    found = attention_rollout(adapted(vit()), PIXELS)
    shares = found.patches.sum(dim=(1, 2)) + found.class_token + found.prompts.sum(dim=1)
    assert found.patches.shape == (len(PIXELS), 2, 2)
    torch.testing.assert_close(shares, torch.ones(len(PIXELS)))


def test_a_disabled_adapter_has_no_share():
    model = adapted(build_clip())
    with model.disable_adapter():
        found = attention_rollout(model, PIXELS)
    plain = attention_rollout(build_clip(), PIXELS)
    assert torch.equal(found.patches, plain.patches) and torch.equal(found.prompts, plain.prompts)


def test_the_model_stays_as_it_was():
    model = adapted(build_clip())
    before, pooled = model.config.vision_config._attn_implementation, model.get_image_features(PIXELS)
    attention_rollout(model, PIXELS)
    assert before == model.config.vision_config._attn_implementation == "sdpa"
    assert torch.equal(pooled.pooler_output, model.get_image_features(PIXELS).pooler_output)


@pytest.mark.parametrize(("model", "word"), [(siglip, "class token"), (lambda: build_clip().text_model, "vision")])
def test_a_model_without_a_class_token_or_images_is_refused(model, word):
    with pytest.raises(ValueError, match=word):
        attention_rollout(model(), PIXELS)
