"""Files of each method's own repository convert without more words, and compute the recorded numbers."""

import re

import pytest
import torch
from peft import get_peft_model

from peft_mudpt import MuDPTConfig, convert_checkpoint
from peft_mudpt.conversion import convert
from tests.conversion.published_files import FILES, as_dassl_saves, published_file
from tests.test_golden import Case, assert_near, backbone


__all__ = ["backbone"]  # a fixture

# The settings of the recorded runs: what a config must say of each.
TEXT_ONLY = dict(vision_prompt_depth=0, text_hidden_size=64, vision_hidden_size=None, fusion_direction="none")
BOTH = dict(text_hidden_size=64, vision_hidden_size=128)
SETTINGS = {
    "coop": dict(num_virtual_tokens=4, text_prompt_depth=1, conditioning="none", **TEXT_ONLY),
    "cocoop": dict(num_virtual_tokens=4, text_prompt_depth=1, conditioning="image", feature_size=64, **TEXT_ONLY),
    "tcp": dict(num_virtual_tokens=4, text_prompt_depth=1, conditioning="class", feature_size=64, **TEXT_ONLY),
    "maple": dict(
        num_virtual_tokens=2,
        text_prompt_depth=3,
        vision_prompt_depth=3,
        fusion_direction="text_to_vision",
        fusion_type="linear",
        fusion_combine="replace",
        fusion_sharing="per_layer",
        **BOTH,
    ),
    "ivlp": dict(
        num_virtual_tokens=2,
        vision_num_virtual_tokens=3,
        text_prompt_depth=2,
        vision_prompt_depth=3,
        fusion_direction="none",
        **BOTH,
    ),
    "vpt": dict(
        num_virtual_tokens=3,
        text_prompt_depth=0,
        vision_prompt_depth=3,
        text_hidden_size=None,
        vision_hidden_size=128,
        fusion_direction="none",
    ),
    "promptsrc": dict(
        num_virtual_tokens=4, text_prompt_depth=3, vision_prompt_depth=3, fusion_direction="none", **BOTH
    ),
}


def logits_of(case: Case) -> torch.Tensor:
    with torch.no_grad():
        logits = case.model(**case.inputs).logits_per_image
    case.model.unload()
    return logits


@pytest.mark.parametrize("method", FILES)
def test_a_file_of_a_methods_own_code_computes_the_recorded_logits(method, backbone):
    case = Case(FILES[method].case, backbone, as_dassl_saves(published_file(method)))
    assert_near(logits_of(case), case.tensors["logits"], 5e-5)


def test_the_average_that_promptsrc_saves_after_the_last_epoch_computes_the_recorded_logits(backbone):
    case = Case("promptsrc", backbone, published_file("promptsrc", "gpa"))
    assert_near(logits_of(case), case.tensors["gpa_logits"], 5e-5)


@pytest.mark.parametrize("method", FILES)
def test_the_method_is_recognized_and_its_settings_are_read(method):
    found = convert(as_dassl_saves(published_file(method)), None, {})
    assert found.format.methods[0] == method
    assert {name: getattr(found.config, name) for name in SETTINGS[method]} == SETTINGS[method]
    assert found.config.first_layer == 0


@pytest.mark.parametrize("method", FILES)
def test_all_other_tensors_are_left_aside(method):
    weights = published_file(method)
    found = convert(weights, None, {})
    assert set(found.left_aside) == weights.keys() - FILES[method].learned.keys()
    assert found.left_aside


def in_last_block(name: str, learned: dict[str, str]) -> bool:
    """Whether a file without this parameter is that of a shallower adapter."""
    return re.sub(r"(?<=resblocks.)\d+", lambda number: str(int(number[0]) + 1), name) not in learned


@pytest.mark.parametrize("method", FILES)
def test_each_missing_parameter_is_named(method):
    learned = FILES[method].learned
    for name in (name for name in learned if not in_last_block(name, learned)):
        weights = published_file(method)
        del weights[name]
        with pytest.raises(ValueError, match=rf"method '{method}': missing parameters.*{name}"):
            convert_checkpoint(weights, method)


@pytest.mark.parametrize("method", FILES)
def test_half_precision_files_of_several_processes_give_the_same_adapter(method):
    weights = {name: tensor.half().float() for name, tensor in published_file(method).items()}
    config, expected = convert_checkpoint(weights)
    other, found = convert_checkpoint({f"module.{name}": tensor.half() for name, tensor in weights.items()})
    assert other == config
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("method", ["ivlp", "promptsrc"])
def test_prompts_in_the_text_tower_alone_convert(method, backbone):
    weights = {n: t for n, t in published_file(method).items() if "VPT" not in n or n.startswith("text_encoder.")}
    config, _ = convert_checkpoint(weights)
    assert (config.vision_prompt_depth, config.text_prompt_depth) == (0, SETTINGS[method]["text_prompt_depth"])
    model = get_peft_model(backbone, config)
    assert all("vision" not in name for name, p in model.named_parameters() if p.requires_grad)
    model.unload()


def test_contexts_of_each_class_are_recognized():
    config, weights = convert_checkpoint({"ctx": torch.ones(5, 4, 64), "token_prefix": torch.zeros(5, 1, 64)})
    assert (config.class_specific_context, config.num_classes, config.num_virtual_tokens) == (True, 5, 4)
    assert isinstance(config, MuDPTConfig) and [tuple(tensor.shape) for tensor in weights.values()] == [(5, 4, 64)]
