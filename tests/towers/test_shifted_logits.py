"""A learned logit scale and bias: each family, against its own forward with those numbers in the model."""

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict

from peft_mudpt import MuDPTConfig, fold_adapter
from tests.conftest import build_clip, trainable
from tests.towers.test_families import FAMILIES, adapted, images, siglip, text_inputs


SCALE, BIAS = 0.3, -1.5
LEARNED = {family: dict(learn_logit_scale=True, learn_logit_bias=family == "siglip") for family in FAMILIES}


def shifted(model):
    """The adapter with shifts of the scale, and of the bias if it learns one."""
    shift = model.prompt_learner.mudpt_adapters["default"].logit_shift
    shift.scale.data.fill_(SCALE)
    if shift.bias is not None:
        shift.bias.data.fill_(BIAS)
    return model


def with_own_numbers(family):
    """A model of the family whose own scale and bias are what the shifts make of them."""
    model = FAMILIES[family]()
    if family == "tipsv2":
        model.temperature.data /= torch.tensor(SCALE).exp()
    else:
        model.logit_scale.data += SCALE
    if family == "siglip":
        model.logit_bias.data += BIAS
    return model


def pairs(family):
    return dict(**text_inputs(family, [5, 6], [7], [8]), pixel_values=images(), return_loss=True)


@torch.no_grad()
@pytest.mark.parametrize("return_dict", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_loss_are_those_of_a_model_with_these_numbers(family, return_dict):
    expected = adapted(with_own_numbers(family))(**pairs(family), return_dict=True)
    found = shifted(adapted(FAMILIES[family](), **LEARNED[family]))(**pairs(family), return_dict=return_dict)
    loss, per_image, per_text = (found if isinstance(found, tuple) else found.to_tuple())[:3]
    torch.testing.assert_close(loss, expected.loss)
    torch.testing.assert_close(per_image, expected.logits_per_image)
    torch.testing.assert_close(per_text, expected.logits_per_text)


@torch.no_grad()
@pytest.mark.parametrize("return_dict", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_loss_the_other_outputs_stay(family, return_dict):
    inputs = pairs(family) | dict(return_loss=False)
    model = adapted(FAMILIES[family](), **LEARNED[family])
    before = model(**inputs, return_dict=return_dict)
    after = shifted(model)(**inputs, return_dict=return_dict)
    before, after = (each if isinstance(each, tuple) else each.to_tuple() for each in (before, after))
    assert len(before) == len(after) == 6
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(after[2:4], before[2:4], atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.skipif("tipsv2" not in FAMILIES, reason="transformers has no TIPSv2")
def test_one_tower_of_tipsv2_runs_alone():
    model = shifted(adapted(FAMILIES["tipsv2"](), learn_logit_scale=True))
    (embeds, _) = model(**text_inputs("tipsv2", [5]), return_dict=False)
    assert embeds.shape == (1, 40)


def test_it_starts_as_the_model_is_and_learns():
    model = adapted(siglip(), **LEARNED["siglip"]).train()
    plain = adapted(siglip()).train()
    loss = model(**pairs("siglip")).loss
    torch.testing.assert_close(loss, plain(**pairs("siglip")).loss)
    loss.backward()
    shift = model.prompt_learner.mudpt_adapters["default"].logit_shift
    assert shift.scale.grad.abs() > 0 and shift.bias.grad.abs() > 0
    assert len(trainable(model) - trainable(plain)) == 2


@torch.no_grad()
def test_a_switched_off_adapter_leaves_the_scale_of_the_model():
    model = shifted(adapted(build_clip(), learn_logit_scale=True))
    with model.disable_adapter():
        found = model(**pairs("clip")).logits_per_image
    torch.testing.assert_close(found, build_clip()(**pairs("clip")).logits_per_image, atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_it_is_saved_loaded_and_folded(family, tmp_path):
    model = shifted(adapted(FAMILIES[family](), **LEARNED[family]))
    expected = model(**pairs(family)).logits_per_image
    model.save_pretrained(tmp_path / "trained")
    fold_adapter(model)
    assert not trainable(model)
    model.save_pretrained(tmp_path / "folded")
    for saved in ("trained", "folded"):
        loaded = PeftModel.from_pretrained(FAMILIES[family](), tmp_path / saved).eval()
        torch.testing.assert_close(loaded(**pairs(family)).logits_per_image, expected)
        assert any("logit_shift.scale" in name for name in get_peft_model_state_dict(loaded))


@pytest.mark.parametrize(
    ("base", "fields", "message"),
    [
        (build_clip, dict(learn_logit_bias=True), "learn_logit_bias=True shifts the logit_bias of a SigLIP"),
        (lambda: build_clip().text_model, dict(learn_logit_scale=True), "is a tower, which makes none"),
        (build_clip, dict(learn_logit_scale=1), "learn_logit_scale=1"),
    ],
)
def test_a_model_that_lacks_what_is_learned_is_refused(base, fields, message):
    towers = dict(vision_prompt_depth=0, fusion_direction="none")
    with pytest.raises(ValueError, match=message):
        get_peft_model(base(), MuDPTConfig(**towers, **fields))


def test_a_tower_alone_loads_an_adapter_of_the_whole_model(tmp_path):
    adapted(build_clip(), learn_logit_scale=True).save_pretrained(tmp_path)
    tower = build_clip().vision_model
    loaded = PeftModel.from_pretrained(tower, tmp_path).eval()
    expected = adapted(build_clip()).vision_model(images()).pooler_output
    torch.testing.assert_close(loaded(images()).pooler_output, expected)
