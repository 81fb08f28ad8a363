"""The inverse projections: their identities, how they age, and what is refused."""

import math

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict
from torch import nn

from peft_mudpt.sdpt.inverse import InverseProjection
from peft_mudpt.sdpt.layer import sdpt_layer_of
from tests.sdpt.conftest import ATTENTION_WIDTH, WIDTH, build_batch, build_detector, config, outputs


def linear(width=WIDTH, attention_width=ATTENTION_WIDTH) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(width, attention_width).requires_grad_(False)


def constants(model) -> list[torch.Tensor]:
    adapter = sdpt_layer_of(model).sdpt_adapters["default"]
    return [*adapter.vision_inverse.buffers(), *adapter.text_inverse.buffers()]


def ill_conditioned(detector, smallest=1e-3):
    """Give each image projection a few small singular values, as a trained detector may have."""
    for layer in detector.model.encoder.layers:
        weight = layer.fusion_layer.attn.vision_proj.weight.data
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        values[-4:] = values[0] * smallest
        weight.copy_(left * values @ right)
    return detector


class TestIdentities:
    def test_tokens_that_are_projected_and_mapped_back_are_the_same(self):
        projection = linear()
        tokens = torch.randn(100, WIDTH)
        assert (InverseProjection([projection])(0, projection(tokens)) - tokens).abs().max() < 1e-5

    @pytest.mark.parametrize(("width", "attention_width"), [(64, 256), (64, 128), (64, 64)])
    def test_prototypes_lose_what_the_projection_cannot_reach(self, width, attention_width):
        projection = linear(width, attention_width)
        prototypes = torch.rand(400, attention_width) * 2 - 1
        again = projection(InverseProjection([projection])(0, prototypes))
        lost = ((again - prototypes).norm() / (prototypes - projection.bias).norm()).item()
        assert lost == pytest.approx(math.sqrt(1 - width / attention_width), rel=0.02, abs=1e-3)

    def test_each_layer_has_its_own(self):
        first, second = linear(), nn.Linear(WIDTH, ATTENTION_WIDTH).requires_grad_(False)
        tokens = torch.randn(5, WIDTH)
        inverse = InverseProjection([first, second])
        for layer, projection in enumerate((first, second)):
            torch.testing.assert_close(inverse(layer, projection(tokens)), tokens, rtol=0, atol=1e-5)

    def test_a_projection_without_bias_is_not_shifted(self):
        projection = nn.Linear(WIDTH, ATTENTION_WIDTH, bias=False).requires_grad_(False)
        tokens = torch.randn(5, WIDTH)
        torch.testing.assert_close(InverseProjection([projection])(0, projection(tokens)), tokens, rtol=0, atol=1e-5)

    def test_it_is_computed_in_float64(self):
        projection = linear(WIDTH, WIDTH)  # square and random: float32 alone would lose digits
        exact = torch.linalg.pinv(projection.weight.double().T)
        assert torch.equal(InverseProjection([projection]).inverse[0], exact.float())


class TestConstants:
    @pytest.mark.parametrize("kind", ["half", "bfloat16", "double"])
    def test_a_cast_of_the_model_leaves_them_as_they_were(self, kind):
        model = get_peft_model(build_detector(), config())
        before = [constant.clone() for constant in constants(model)]
        getattr(model, kind)()
        assert all(torch.equal(*pair) and pair[0].dtype == torch.float32 for pair in zip(constants(model), before))

    @pytest.mark.parametrize(("kind", "tolerance"), [("half", 5e-3), ("bfloat16", 5e-2), ("double", 0)])
    def test_a_cast_model_runs_with_the_prompts_of_the_rounded_prototypes(self, kind, tolerance, batch):
        model = get_peft_model(build_detector(), config())
        adapter = sdpt_layer_of(model).sdpt_adapters["default"]
        expected, _ = adapter(0)
        getattr(model, kind)()
        torch.testing.assert_close(adapter(0)[0], expected, rtol=0, atol=tolerance)
        batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
        assert outputs(model, batch)["pred_boxes"].isfinite().all()

    def test_they_are_moved_with_the_model(self):
        model = get_peft_model(build_detector(), config())
        assert {constant.device.type for constant in constants(model.to("meta"))} == {"meta"}

    def test_they_are_neither_saved_nor_trained(self):
        model = get_peft_model(build_detector(), config())
        assert [*get_peft_model_state_dict(model)] == [
            "base_model.model.model.encoder.prompt_learner.sdpt_adapters.prototypes"
        ]
        assert not any("inverse" in key for key in model.state_dict())

    def test_autocast_does_not_round_the_prompts(self):
        adapter = sdpt_layer_of(get_peft_model(build_detector(), config())).sdpt_adapters["default"]
        expected, _ = adapter(0)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(adapter(0)[0], expected)


class TestLargePrompts:
    def test_small_singular_values_are_warned_of_and_rcond_cures_them(self, recwarn):
        with pytest.warns(UserWarning, match="vision prompts of fusion layer .*rcond=1e-2"):
            model = get_peft_model(ill_conditioned(build_detector()), config())
        assert sdpt_layer_of(model).sdpt_adapters["default"](0)[0].square().mean(-1).sqrt().max() > 10
        recwarn.clear()
        cured = get_peft_model(ill_conditioned(build_detector()), config(rcond=1e-2))
        assert not [w for w in recwarn if "fusion layer" in str(w.message)]
        assert sdpt_layer_of(cured).sdpt_adapters["default"](0)[0].square().mean(-1).sqrt().max() < 10

    def test_the_layer_norm_says_what_is_large(self):
        detector = build_detector()
        for layer in detector.model.encoder.layers:
            nn.init.constant_(layer.fusion_layer.layer_norm_text.weight, 1e-3)
        with pytest.warns(UserWarning, match="text prompts of fusion layer"):
            get_peft_model(detector, config())


class TestQuantizedWeights:
    def test_they_are_refused_and_the_model_and_config_stay_as_they_were(self):
        detector, asked = build_detector(), config()
        attention = detector.model.encoder.layers[1].fusion_layer.attn
        attention.text_proj.weight = nn.Parameter(attention.text_proj.weight.data.to(torch.uint8), requires_grad=False)
        with pytest.raises(ValueError, match="Linear.*torch.uint8.*quantization"):
            get_peft_model(detector, asked)
        assert sdpt_layer_of(detector) is None and asked == config()

    def test_a_tensor_of_another_class_is_refused(self):
        class Packed(torch.Tensor):
            pass

        projection = linear()
        projection.weight = nn.Parameter(projection.weight.data.as_subclass(Packed), requires_grad=False)
        with pytest.raises(ValueError, match="Packed"):
            InverseProjection([projection])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_floating_weights_are_not(self, dtype):
        detector = build_detector().to(dtype)
        model = get_peft_model(detector, config())
        batch = build_batch()
        batch["pixel_values"] = batch["pixel_values"].to(dtype)
        assert outputs(model, batch)["pred_boxes"].isfinite().all()
        assert sdpt_layer_of(model).sdpt_adapters["default"].prototypes.dtype == (
            torch.float64 if dtype == torch.float64 else torch.float32
        )
