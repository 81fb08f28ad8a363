"""A folded adapter: constants of half the size, and equal outputs."""

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict

from peft_mudpt import fold_adapter
from peft_mudpt.sdpt.layer import sdpt_layer_of
from tests.conftest import trainable
from tests.sdpt.conftest import assert_equal, build_detector, config, outputs


@pytest.mark.parametrize("masked", [False, True])
def test_folded_it_computes_the_same_and_has_half_the_numbers(batch, tmp_path, masked):
    model = get_peft_model(build_detector(), config(mask_text_prompts=masked))
    expected = outputs(model, batch)
    numbers = sum(tensor.numel() for tensor in get_peft_model_state_dict(model).values())
    fold_adapter(model)
    assert_equal(outputs(model, batch), expected)
    constants = get_peft_model_state_dict(model)
    assert sum(tensor.numel() for tensor in constants.values()) == (numbers // 4 if masked else numbers // 2)
    assert trainable(model) == set()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build_detector(), tmp_path)
    assert_equal(outputs(loaded, batch), expected)


def test_a_subset_of_layers_is_folded(batch):
    model = get_peft_model(build_detector(), config(layers_to_transform=[1]))
    expected = outputs(model, batch)
    fold_adapter(model)
    fold_adapter(model)  # once more changes nothing
    assert_equal(outputs(model, batch), expected)


def test_one_of_several_is_folded_by_its_name(batch):
    model = get_peft_model(build_detector(), config())
    model.add_adapter("other", config())
    fold_adapter(model, "other")
    assert [model.peft_config[name].folded for name in ("default", "other")] == [False, True]
    assert hasattr(sdpt_layer_of(model).sdpt_adapters["default"], "prototypes")


def test_an_adapter_that_is_not_there_is_refused():
    model = get_peft_model(build_detector(), config())
    with pytest.raises(ValueError, match=r"no SDPT adapter 'nobody'; its SDPT adapters are \['default'\]"):
        fold_adapter(model, "nobody")


def test_it_cannot_be_trained(tmp_path):
    model = get_peft_model(build_detector(), config())
    fold_adapter(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="folded"):
        PeftModel.from_pretrained(build_detector(), tmp_path, is_trainable=True)


def test_it_needs_no_floating_weights_to_load(batch, tmp_path):
    model = get_peft_model(build_detector(), config())
    fold_adapter(model)
    model.save_pretrained(tmp_path)
    detector = build_detector()
    for layer in detector.model.encoder.layers:  # packed weights stand for others; only loading is tried
        weight = layer.fusion_layer.attn.text_proj.weight
        layer.fusion_layer.attn.text_proj.weight = torch.nn.Parameter(weight.data.to(torch.uint8), requires_grad=False)
    PeftModel.from_pretrained(detector, tmp_path)


def test_half_precision_files_are_read_in_float32(tmp_path):
    model = get_peft_model(build_detector(), config())
    fold_adapter(model)
    model.half().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build_detector(), tmp_path)
    constants = [*sdpt_layer_of(loaded).sdpt_adapters["default"].buffers()]
    assert len(constants) == 2 and {constant.dtype for constant in constants} == {torch.float32}
