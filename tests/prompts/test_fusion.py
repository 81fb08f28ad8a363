"""The injection model against PyTorch's own transformer layers."""

import pytest
import torch
from torch import nn

from peft_mudpt.prompts.fusion import InjectionModel, LightTransformer, SelfAttention


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
    prompts = torch.randn(3, 5, 128)
    torch.testing.assert_close(ours(prompts), reference(prompts, prompts, prompts)[0], atol=1e-6, rtol=0)


def test_attention_starts_as_pytorchs_multi_head_attention_starts():
    torch.manual_seed(0)
    reference = nn.MultiheadAttention(512, num_heads=8)
    ours = SelfAttention(512)
    for weight, expected in (
        (ours.qkv.weight, reference.in_proj_weight),
        (ours.output.weight, reference.out_proj.weight),
    ):
        assert abs(weight.abs().max() / expected.abs().max() - 1) < 0.01
    assert not ours.qkv.bias.any() and not ours.output.bias.any()


def test_the_light_transformer_is_a_pre_norm_layer_between_norms_and_a_projection():
    ours, prompts = LightTransformer(64, 96), torch.randn(3, 4, 64)
    block = nn.TransformerEncoderLayer(
        64,
        nhead=1,
        dim_feedforward=256,
        dropout=0,
        norm_first=True,
        batch_first=True,
        activation=lambda x: x * torch.sigmoid(1.702 * x),
    )
    parts = {
        "self_attn.in_proj_weight": ours.attention.qkv.weight,
        "self_attn.in_proj_bias": ours.attention.qkv.bias,
        "self_attn.out_proj": ours.attention.output,
        "linear1": ours.feed_forward_in,
        "linear2": ours.feed_forward_out,
        "norm1": ours.attention_norm,
        "norm2": ours.feed_forward_norm,
    }
    state = {}
    for name, part in parts.items():
        state |= {name: part} if isinstance(part, nn.Parameter) else part.state_dict(prefix=f"{name}.")
    block.load_state_dict(state)
    with torch.no_grad():
        for norm in (ours.input_norm, ours.output_norm, ours.attention_norm, ours.feed_forward_norm):
            norm.weight.normal_()
        block.norm1.load_state_dict(ours.attention_norm.state_dict())
        block.norm2.load_state_dict(ours.feed_forward_norm.state_dict())
    expected = ours.output(ours.output_norm(block(ours.input_norm(prompts))))
    torch.testing.assert_close(ours(prompts), expected, atol=1e-5, rtol=0)
    assert expected.shape == (3, 4, 96)


@pytest.mark.parametrize(("width", "heads"), [(32, 1), (64, 1), (96, 1), (512, 8), (768, 12), (1280, 20), (200, 2)])
def test_there_is_a_head_for_every_64_of_the_width_and_at_least_one(width, heads):
    assert SelfAttention(width).num_heads == heads


@pytest.mark.parametrize(("sharing", "networks"), [("all", 1), ("input_and_deep", 2), ("per_layer", 3)])
def test_sharing_decides_how_many_networks_there_are(sharing, networks):
    model = InjectionModel(8, 12, layers=range(3), network="linear", sharing=sharing)
    assert len(model.networks) == networks
    prompts = torch.randn(2, 8).expand(3, 2, 8)
    different = {tuple(shift.flatten().tolist()) for shift in model(range(3), prompts)}
    assert len(different) == networks


@pytest.mark.parametrize("sharing", ["all", "input_and_deep", "per_layer"])
@pytest.mark.parametrize("network", ["linear", "transformer"])
def test_layers_taken_together_have_the_shifts_they_have_alone(sharing, network):
    model = InjectionModel(8, 12, layers=range(4), network=network, sharing=sharing)
    prompts = torch.randn(4, 2, 8)
    alone = torch.cat([model(range(layer, layer + 1), prompts[layer : layer + 1]) for layer in range(4)])
    torch.testing.assert_close(model(range(4), prompts), alone, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model(range(1, 3), prompts[1:3]), alone[1:3], atol=1e-6, rtol=1e-5)
