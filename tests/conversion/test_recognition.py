"""Which method a checkpoint is recognized as, and what is said of those that are not recognized."""

import pytest
import torch

from peft_mudpt import convert_checkpoint
from peft_mudpt.conversion import convert
from tests.conversion.published_files import clip, published_file, recorded
from tests.test_golden import IMPLEMENTATIONS


@pytest.mark.parametrize("method", IMPLEMENTATIONS)
def test_the_method_of_each_recorded_case_is_recognized(method):
    assert convert(recorded(method), None, {}).format.methods[0] == method


def one_token() -> dict[str, torch.Tensor]:
    """A context of one token and a meta-net that makes one token: a shift (CoCoOp), or a class token (TCP)."""
    shapes = {"linear1.weight": (4, 64), "linear1.bias": (4,), "linear2.weight": (64, 4), "linear2.bias": (64,)}
    return {"ctx": torch.ones(1, 64), **{f"meta_net.{name}": torch.ones(shape) for name, shape in shapes.items()}}


def test_a_file_that_fits_two_methods_is_refused_unless_the_method_is_given():
    with pytest.raises(ValueError, match="fits several methods: cocoop, tcp. Give the method"):
        convert_checkpoint(one_token())
    conditions = {"cocoop": "image", "tcp": "class"}
    assert {method: convert_checkpoint(one_token(), method)[0].conditioning for method in conditions} == conditions


def test_the_parameters_of_two_methods_in_one_file_are_refused():
    with pytest.raises(ValueError, match=r"no known method. The closest is 'maple'.*unknown.*mudpt_prompt_learner"):
        convert_checkpoint(published_file("maple") | {"mudpt_prompt_learner.ctx": torch.ones(2, 64)})


@pytest.mark.parametrize("state_dict", [{}, clip(), {"state_dict": {"prompt_learner.token_prefix": torch.ones(5, 1)}}])
def test_a_file_without_learned_prompts_is_refused(state_dict):
    with pytest.raises(ValueError, match="no learned prompts.*Give the file"):
        convert_checkpoint(state_dict)


def test_a_clip_under_its_own_names_is_refused_in_few_words():
    names = [name.replace("image_encoder", "visual") for name in clip() if name.startswith("image_encoder")]
    with pytest.raises(
        ValueError, match=r"no known method.* and \d+ more.*known methods are coop .preset coop"
    ) as error:
        convert_checkpoint(dict.fromkeys(names, torch.ones(1)))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "name", ["image_encoder.attnpool.c_proj.weight", "image_encoder.layer1.0.bn1.num_batches_tracked"]
)
def test_a_clip_with_a_resnet_is_named(name):
    with pytest.raises(ValueError, match=f"ResNet, because it holds '{name}'.*Give a checkpoint"):
        convert_checkpoint({"prompt_learner.ctx": torch.ones(2, 64), name: torch.tensor(3)})


@pytest.mark.parametrize("given", ["coop", "maple", "umudpt"])
def test_a_wrong_method_is_told_the_right_one(given):
    with pytest.raises(ValueError, match=f"not a checkpoint of method '{given}'.*It fits method 'cocoop'\\."):
        convert_checkpoint(recorded("cocoop"), given)


def test_a_mistyped_number_of_a_layer_is_unknown():
    weights = published_file("vpt")
    weights["image_encoder.transformer.resblocks.999999999.VPT_shallow"] = weights["image_encoder.VPT"]
    with pytest.raises(ValueError, match=r"unknown parameters: .*resblocks.999999999.VPT_shallow"):
        convert_checkpoint(weights)


def test_wrong_shapes_are_told_for_each_method_that_has_these_names():
    weights = {**recorded("cocoop"), "prompt_learner.meta_net.linear2.bias": torch.ones(7)}
    with pytest.raises(ValueError, match=r"'cocoop': .*is \(7,\), expected \(64,\).*'tcp': .*expected \(256,\)"):
        convert_checkpoint(weights)


def test_what_no_file_holds_can_be_given():
    template = "a photo of a {}, a type of pet."
    notes = dict(class_template="{}, a type of pet.", condition_template=template, class_token_layer=2)
    config, _ = convert_checkpoint(published_file("tcp"), **notes)
    assert {name: getattr(config, name) for name in notes} == notes


def test_what_the_file_decides_cannot_be_given():
    with pytest.raises(ValueError, match="fusion_type, num_virtual_tokens cannot be given.*Only class_names"):
        convert_checkpoint(published_file("maple"), num_virtual_tokens=3, fusion_type="linear")
