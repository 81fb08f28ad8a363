"""Dual prompts: each stream learns prompts of its own, without prototypes and pseudo-inverses."""

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from torch import nn
from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

from peft_mudpt import SDPTConfig, fold_adapter
from peft_mudpt.sdpt.layer import sdpt_layer_of
from tests.conftest import trainable
from tests.sdpt.conftest import LAYERS, WIDTH, assert_equal, build_detector, config, outputs


KEY = "base_model.model.model.encoder.prompt_learner.sdpt_adapters.{}_prompts"


def dual(**fields) -> SDPTConfig:
    return config(unified_prototypes=False, **fields)


def adapter_of(model, name="default"):
    return sdpt_layer_of(model).sdpt_adapters[name]


class Quantized(nn.Linear):
    """A projection of packed weights, which it unpacks in each forward."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features)
        self.scale = linear.weight.data.abs().max() / 127
        self.weight = nn.Parameter((linear.weight.data / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, tokens):
        return nn.functional.linear(tokens, self.weight * self.scale, self.bias)


@pytest.mark.parametrize("masked", [False, True])
def test_the_prompts_of_prototypes_learned_as_they_are_give_equal_outputs(detector, batch, masked):
    fields = dict(layers_to_transform=[1], mask_text_prompts=masked)
    model = get_peft_model(detector, config(**fields))
    model.add_adapter("dual", dual(**fields))
    vision, text = adapter_of(model)(1)
    own = adapter_of(model, "dual")
    own.vision_prompts.data[0] = vision
    if masked:
        assert text is None and own.text_prompts is None
    else:
        own.text_prompts.data[0] = text
    expected = outputs(model, batch)
    model.set_adapter("dual")
    assert_equal(outputs(model, batch), expected)


def test_they_have_2_layers_k_d_numbers_and_start_within_the_range():
    with torch.device("meta"):
        tiny = GroundingDinoForObjectDetection(GroundingDinoConfig())
    model = get_peft_model(tiny, SDPTConfig(unified_prototypes=False))
    assert model.get_nb_trainable_parameters()[0] == 6 * 10 * 256 * 2
    weights = get_peft_model_state_dict(get_peft_model(build_detector(), dual(init_range=0.25)))
    assert weights.keys() == {KEY.format("vision"), KEY.format("text")}
    for prompts in weights.values():
        assert prompts.shape == (LAYERS, 4, WIDTH) and 0.24 < prompts.abs().max() <= 0.25
    assert [*get_peft_model_state_dict(get_peft_model(build_detector(), dual(mask_text_prompts=True)))] == [
        KEY.format("vision")
    ]


def test_rcond_is_refused_because_nothing_is_inverted():
    with pytest.raises(ValueError, match="rcond=0.01 .*unified_prototypes=False"):
        dual(rcond=0.01)
    with pytest.raises(ValueError, match="unified_prototypes='no'"):
        config(unified_prototypes="no")


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_saved_and_loaded_they_give_equal_outputs(batch, tmp_path, low_cpu_mem_usage):
    model = get_peft_model(build_detector(), dual())
    expected = outputs(model, batch)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(
        build_detector(), tmp_path, "other", is_trainable=True, low_cpu_mem_usage=low_cpu_mem_usage
    )
    assert_equal(outputs(loaded, batch), expected)
    assert trainable(loaded) == {
        KEY.format(stream).replace(".sdpt_adapters.", ".sdpt_adapters.other.") for stream in ("vision", "text")
    }


@pytest.mark.parametrize("masked", [False, True])
def test_folded_they_are_constants_of_equal_outputs(batch, tmp_path, masked):
    model = get_peft_model(build_detector(), dual(mask_text_prompts=masked))
    expected, numbers = outputs(model, batch), get_peft_model_state_dict(model)
    fold_adapter(model)
    assert_equal(outputs(model, batch), expected)
    assert_equal(get_peft_model_state_dict(model), numbers)
    assert trainable(model) == set()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build_detector(), tmp_path)
    assert_equal(outputs(loaded, batch), expected)
    with pytest.raises(ValueError, match="folded"):
        PeftModel.from_pretrained(build_detector(), tmp_path, is_trainable=True)


def test_the_fusion_layers_may_be_quantized(detector, batch):
    for layer in detector.model.encoder.layers:
        for name in ("vision_proj", "text_proj"):
            setattr(layer.fusion_layer.attn, name, Quantized(getattr(layer.fusion_layer.attn, name)))
    with pytest.raises(ValueError, match="torch.int8"):
        get_peft_model(detector, config())
    model = get_peft_model(detector, dual())
    logits = model(**batch).logits
    logits[logits.isfinite()].square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == trainable(model) and all(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double"])
def test_a_cast_of_the_model_casts_them(kind, batch):
    model = getattr(get_peft_model(build_detector(), dual()), kind)()
    assert {prompts.dtype for prompts in adapter_of(model).parameters()} == {model.dtype}
    batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
    assert outputs(model, batch)["pred_boxes"].isfinite().all()


def test_the_weights_of_prototypes_are_refused(tmp_path):
    model = get_peft_model(build_detector(), config())
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="text_prompts is missing.*prototypes is no part of it"):
        PeftModel.from_pretrained(build_detector(), tmp_path, config=dual(inference_mode=True))
