"""The injection model against PyTorch's own transformer layers."""

import pytest
import torch
from torch import nn

from peft_mudpt.fusion import InjectionModel, LightTransformer, SelfAttention


def test_attention_equals_pytorchs_multi_head_attention():
    ours = SelfAttention(128)
    reference = nn.MultiheadAttention(128, num_heads=2, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.output.weight,
            "out_proj.bias": ours.output.bias,
        }
    )
    prompts = torch.randn(5, 128)
    torch.testing.assert_close(ours(prompts), reference(prompts, prompts, prompts)[0], atol=1e-6, rtol=0)


def test_the_light_transformer_follows_its_formula():
    model, prompts = LightTransformer(64, 96), torch.randn(4, 64)
    hidden = model.input_norm(prompts)
    hidden = hidden + model.attention(model.attention_norm(hidden))
    inner = model.feed_forward_in(model.feed_forward_norm(hidden))
    hidden = hidden + model.feed_forward_out(inner * torch.sigmoid(1.702 * inner))
    torch.testing.assert_close(model(prompts), model.output(model.output_norm(hidden)))
    assert model(prompts).shape == (4, 96)


@pytest.mark.parametrize(("width", "heads"), [(32, 1), (64, 1), (96, 1), (512, 8), (768, 12), (1280, 20), (200, 2)])
def test_there_is_a_head_for_every_64_of_the_width_and_at_least_one(width, heads):
    assert SelfAttention(width).num_heads == heads


@pytest.mark.parametrize(("sharing", "networks"), [("all", 1), ("input_and_deep", 2), ("per_layer", 3)])
def test_sharing_decides_how_many_networks_there_are(sharing, networks):
    model = InjectionModel(8, 12, layers=range(3), network="linear", sharing=sharing)
    assert len(model.networks) == networks
    prompts = torch.randn(2, 8)
    different = {tuple(model(layer, prompts).flatten().tolist()) for layer in range(3)}
    assert len(different) == networks
