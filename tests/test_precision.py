"""The same adapter in every precision: how far its numbers may be from float32's, and that none is lost."""

from functools import cache
from typing import NamedTuple, Optional

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn
from transformers import AutoProcessor, CLIPModel, CLIPTextModelWithProjection

from peft_mudpt import PRESETS, MuDPTClassifier, MuDPTConfig, demo
from tests.conftest import build_clip, checkpoint_layers, logits_and_gradients


BF16, FP16, FP32, FP64, INT8 = torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int8


class Mode(NamedTuple):
    """How a CLIP and its adapter are run; int8 stands for Linears that torchao has quantised."""

    base: torch.dtype = FP32
    adapter: torch.dtype = FP32
    autocast: Optional[torch.dtype] = None

    @property
    def computing_eps(self) -> float:
        """The coarsest relative spacing of the numbers that it computes. An int8 base computes in float32."""
        base = FP32 if self.base == INT8 else self.base
        return max(torch.finfo(dtype or base).eps for dtype in (base, self.adapter, self.autocast))

    @property
    def eps(self) -> float:
        """The same, the spacing of stored weights included."""
        return 1 / 127 if self.base == INT8 else self.computing_eps  # of the largest weight in a row


HALVES = {"bf16": BF16, "fp16": FP16}
ROUGH = {
    **{f"{name} base": Mode(base=half) for name, half in HALVES.items()},
    **{f"{name} throughout": Mode(base=half, adapter=half) for name, half in HALVES.items()},
    **{f"{name} autocast": Mode(autocast=half) for name, half in HALVES.items()},
    "int8 base": Mode(base=INT8),
}
MODES = {"fp32": Mode(), "fp64": Mode(base=FP64, adapter=FP64), **ROUGH}

# In units of eps. A tower makes some 40 roundings one after another, each by up to eps / 2. Independent of each other
# they come to sqrt(40) / 2, 3 eps of a vector's length; a cosine of two such vectors in 40 dimensions is then off by
# 3 sqrt(2 / 40), 0.7 eps. The backward pass makes as many again, on values that are off already: two or three times
# 3 eps of a gradient's length. Measured over all modes and presets, with and without AVX: at most 0.75 and 7.9.
# Without prompts the cosines are off by 11 eps of bfloat16 at least.
COSINE, GRADIENT = 1, 10
TEMPERATURE = {"fed_dpt": {"domain_temperature": 1.0}}
SCALE = build_clip().logit_scale.exp().item()


def quantize(module: nn.Module, filter_fn=None) -> nn.Module:
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(module, torchao.Int8WeightOnlyConfig(), filter_fn=filter_fn)
    return module


def adapted(preset: str = "mudpt", mode: Mode = MODES["fp32"], init_std: float = 0.5) -> PeftModel:
    """The same weights in any mode. The prompts are large enough to matter."""
    clip = quantize(build_clip()) if mode.base == INT8 else build_clip().to(mode.base)
    # at temperature 0.1, the weights of domains would have ten times the rounding of their scores
    config = MuDPTConfig.from_preset(preset, init_std=init_std, **TEMPERATURE.get(preset, {}))
    torch.manual_seed(1)
    model = get_peft_model(clip, config, autocast_adapter_dtype=mode.adapter == FP32).eval()
    if mode.base != FP32:  # a base of half precision rounds what a new adapter starts from
        set_peft_model_state_dict(model, float32_weights(preset, init_std))
    if mode.autocast is not None:  # of the forward alone, as accelerate does it
        model.forward = torch.autocast("cpu", mode.autocast)(model.forward)
    return model


@cache
def float32_weights(preset: str, init_std: float) -> dict[str, torch.Tensor]:
    return get_peft_model_state_dict(adapted(preset, init_std=init_std))


@cache
def float32_results(preset: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return logits_and_gradients(adapted(preset))


def assert_within_rounding(ours, reference, eps: float) -> None:
    """Compare what `logits_and_gradients` returns, the gradient of each parameter by its length."""
    torch.testing.assert_close(ours[0] / SCALE, reference[0] / SCALE, atol=COSINE * eps, rtol=0, check_dtype=False)
    assert ours[1].keys() == reference[1].keys()
    for name, gradient in reference[1].items():
        error = (ours[1][name].double() - gradient.double()).norm() / gradient.double().norm()
        assert error <= GRADIENT * eps, f"{name}: {error / eps:.1f} eps"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("mode", ROUGH.values(), ids=ROUGH)
def test_logits_and_gradients_are_those_of_float32_but_for_rounding(mode, preset):
    assert_within_rounding(logits_and_gradients(adapted(preset, mode)), float32_results(preset), mode.eps)


@pytest.mark.parametrize("preset", PRESETS)
def test_double_precision_finds_what_single_precision_does(preset):
    logits, _ = logits_and_gradients(adapted(preset, MODES["fp64"]))
    assert logits.dtype == FP64
    torch.testing.assert_close(logits, float32_results(preset)[0].double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_parameters_and_gradients_of_the_adapter_keep_their_precision(mode):
    model = adapted(mode=mode)
    _, gradients = logits_and_gradients(model)
    trainable = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("mudpt_" in name for name in trainable) and gradients.keys() == trainable.keys()
    assert {*trainable.values()} == {gradient.dtype for gradient in gradients.values()} == {mode.adapter}


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("preset", ["mudpt", "mudpt_linear", "maple"])
def test_beside_a_base_of_half_precision_prompts_are_fused_in_float32_and_rounded_once(preset, half):
    def prompts_before_the_second_layer(model) -> list[torch.Tensor]:
        seen, n = [], model.prompt_learner.num_tokens("text")
        for tower, tokens in ((model.text_model, slice(1, 1 + n)), (model.vision_model, slice(-n, None))):
            layer = tower.encoder.layers[1]
            layer.register_forward_pre_hook(lambda _, args, tokens=tokens: seen.append(args[0][0, tokens]))
        logits_and_gradients(model)
        return seen

    ours, exact = map(prompts_before_the_second_layer, (adapted(preset, Mode(base=half)), adapted(preset)))
    assert len(ours) == 2
    assert all(torch.equal(rounded, prompts.to(half)) for rounded, prompts in zip(ours, exact))


# Presets whose networks serve several layers. Without checkpointing such a network is run once, over all of them; with
# it, once for each layer, in the forward and again in the backward pass: the same numbers, summed in another order.
# The bound is the eps of the coarsest precision that computes, the base's included, because two prompts that differ in
# the last bit of float32 may be rounded to two neighboring numbers of the base's half precision.
SHARED_NETWORKS = ("mudpt_linear", "mudpt")


@pytest.mark.parametrize("preset", ["coop", "vpt_deep", "maple", "mudpt_linear", "mudpt"])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_gradient_checkpointing_of_either_kind_changes_no_number(mode, preset):
    model = adapted(preset, mode).train()
    base, reference = model.get_base_model(), logits_and_gradients(model)
    for use_reentrant in (True, False):
        checkpoint_layers(base, use_reentrant)
        assert all(layer.gradient_checkpointing for layer in base.text_model.encoder.layers)
        ours = logits_and_gradients(model)
        if preset in SHARED_NETWORKS:
            assert_within_rounding(ours, reference, mode.computing_eps)
        else:
            torch.testing.assert_close(ours, reference, atol=0, rtol=0)


@pytest.mark.parametrize("preset", SHARED_NETWORKS)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_bound_tells_the_gradient_of_one_layer_from_rounding(mode, preset):
    model = adapted(preset, mode)
    logits, gradients = logits_and_gradients(model)
    prompts = slice(1, 1 + model.prompt_learner.num_tokens("text"))

    def without_gradient(layer, args):
        hidden = args[0].clone()  # (B, n + L, d)
        hidden[:, prompts] = hidden[:, prompts].detach()
        return hidden, *args[1:]

    model.text_model.encoder.layers[1].register_forward_pre_hook(without_gradient)
    cut_logits, cut_gradients = logits_and_gradients(model)
    assert torch.equal(cut_logits, logits)
    with pytest.raises(AssertionError):
        assert_within_rounding((logits, cut_gradients), (logits, gradients), mode.computing_eps)


class TestQuantisedBase:
    def test_only_clip_is_quantised_and_its_weights_stay_as_they_are(self):
        clip = quantize(build_clip())
        linears = {name: module for name, module in clip.named_modules() if isinstance(module, nn.Linear)}
        before = {name: linear.weight.dequantize() for name, linear in linears.items()}
        model = get_peft_model(clip, MuDPTConfig())
        logits_and_gradients(model)
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
        adapter = [module for module in model.prompt_learner.modules() if isinstance(module, nn.Linear)]
        assert adapter and {type(linear.weight) for linear in adapter} == {nn.Parameter}
        assert model.unload() is clip
        assert all(torch.equal(linear.weight.dequantize(), before[name]) for name, linear in linears.items())

    def test_it_can_be_quantised_after_the_adapter_was_added_if_that_is_left_out(self):
        model = adapted()
        quantize(model, lambda module, name: isinstance(module, nn.Linear) and "prompt_learner" not in name)
        torch.testing.assert_close(
            logits_and_gradients(model), logits_and_gradients(adapted(mode=Mode(base=INT8))), atol=0, rtol=0
        )

    def test_an_adapter_trained_on_it_is_saved_and_loaded(self, tmp_path):
        model = adapted(mode=Mode(base=INT8))
        model.save_pretrained(tmp_path)
        reloaded = PeftModel.from_pretrained(quantize(build_clip()), tmp_path, is_trainable=True).eval()
        torch.testing.assert_close(logits_and_gradients(reloaded), logits_and_gradients(model), atol=0, rtol=0)

    def test_a_tower_that_transformers_quantises_on_loading_is_adapted(self, clip, tmp_path):
        # transformers does not quantise a whole CLIPModel: it asks for its input embeddings, and CLIP has two
        torchao = pytest.importorskip("torchao.quantization")
        from transformers import TorchAoConfig

        CLIPTextModelWithProjection(clip.config.text_config).save_pretrained(tmp_path)
        tower = CLIPTextModelWithProjection.from_pretrained(
            tmp_path, quantization_config=TorchAoConfig(torchao.Int8WeightOnlyConfig()), dtype=FP32
        )
        assert tower.text_model.encoder.layers[0].mlp.fc1.weight.__class__.__name__ == "Int8Tensor"
        model = get_peft_model(tower, MuDPTConfig.from_preset("coop", num_virtual_tokens=4))
        model(torch.tensor([[97, 5, 98]])).text_embeds.sum().backward()
        assert [p.grad.dtype for p in model.parameters() if p.requires_grad] == [FP32]

    def test_beside_a_quantised_position_table_the_adapter_stays_in_floating_point(self, clip):
        class QuantisedEmbedding(nn.Embedding):
            def forward(self, ids):
                return super().forward(ids).float() / 127

        table = QuantisedEmbedding(24, 32).requires_grad_(False)
        table.weight.data = clip.text_model.embeddings.position_embedding.weight.mul(127).to(INT8)
        clip.text_model.embeddings.position_embedding = table
        model = get_peft_model(clip, MuDPTConfig())
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {FP32}
        logits_and_gradients(model)


def demo_classifier(preset: str, classes: int, **fields) -> MuDPTClassifier:
    torch.manual_seed(0)
    config = MuDPTConfig.from_preset(preset, **fields)
    model = get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), config).eval()
    return MuDPTClassifier(model, demo.CLASS_NAMES[:classes], "{}.")


class TestClassifier:
    @pytest.fixture
    def images(self):
        return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def test_remembered_classes_follow_the_models_precision(self, images):
        classifier = demo_classifier("mudpt", classes=3, init_std=0.5)
        for dtype in (FP32, FP16, FP32, BF16, FP64):
            classifier.predict(images)
            classifier.model.to(dtype)
            with torch.no_grad():
                remembered = classifier.class_features()
                classifier.forget()
                assert remembered.dtype == dtype and torch.equal(remembered, classifier.class_features())

    @pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
    def test_probabilities_in_half_precision_add_up_to_one_in_float32(self, images, half):
        classifier = demo_classifier("mudpt", classes=96)
        classifier.model.to(half)
        probabilities = classifier.predict_proba(images)
        assert probabilities.dtype == FP32
        torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(5), atol=1e-6, rtol=0)

    def test_of_equal_logits_the_first_class_wins_everywhere(self, images, monkeypatch):
        classifier = demo_classifier("coop", classes=17)
        # half precision makes such ties
        logits = 1000 * torch.eye(17)[[3, 16]].sum(dim=0)[None]
        monkeypatch.setattr(classifier, "_logits_of_each", lambda *args: logits)
        (best,) = classifier.predict(images)
        ((first, second, third),) = classifier.top_k(images, k=3)
        assert best == first[0] == demo.CLASS_NAMES[3]
        assert second[0] == demo.CLASS_NAMES[16] and third == (demo.CLASS_NAMES[0], 0)


# Not among them: an adapter that is in float16 itself. Several norms in a row each multiply the gradient of a prompt
# that is all zero by 1 / sqrt(1e-5), which leads out of float16.
@pytest.mark.parametrize("init_std", [0, 1e4])
@pytest.mark.parametrize("preset", ["mudpt", "mudpt_linear", "maple"])
@pytest.mark.parametrize("name", [name for name in MODES if name != "fp16 throughout"])
def test_no_prompts_and_large_prompts_on_a_blank_picture_have_finite_gradients(name, preset, init_std):
    model = adapted(preset, MODES[name], init_std)
    logits, gradients = logits_and_gradients(model, pixel_values=torch.zeros(3, 3, 16, 16))
    assert logits.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.slow
def test_500_steps_in_bfloat16_autocast_at_the_published_learning_rate_lose_no_number():
    classes, n = 6, 8
    classifier = demo_classifier("mudpt", classes, text_prompt_init_text="a photo of a").train()
    pictures = demo.load_pictures(demo.ADAPTATION_STYLE, images_per_class=n, seed=0).select(range(classes * n))
    processor = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")
    pixel_values = processor(images=list(pictures["image"]), return_tensors="pt").pixel_values
    labels = torch.tensor(list(pictures["label"]))
    parameters = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0025, momentum=0.9, weight_decay=5e-4)
    losses = []
    for batch in torch.randint(len(labels), (500, 2), generator=torch.Generator().manual_seed(0)):
        optimizer.zero_grad()
        with torch.autocast("cpu", BF16):
            loss = classifier(pixel_values[batch], labels[batch]).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    # once infinite or no number, an element of momentum or of a parameter stays so: the last look sees every step
    kept = [optimizer.state[parameter]["momentum_buffer"] for parameter in parameters]
    assert all(tensor.isfinite().all() for tensor in (*parameters, *kept))
    assert np.mean(losses[-50:]) < 0.1 * np.mean(losses[:10]), (losses[:10], losses[-50:])
