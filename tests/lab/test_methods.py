"""The methods that the lab compares."""

import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPModel

from peft_mudpt import PRESETS, demo
from peft_mudpt.lab.learner import Ground
from peft_mudpt.lab.methods import all_methods, find_method
from peft_mudpt.lab.probe import LinearProbe


TOKENIZER = AutoTokenizer.from_pretrained(demo.MODEL_PATH)


def learner(name, fields=None, template=None):
    clip = CLIPModel.from_pretrained(demo.MODEL_PATH)
    method = find_method(name)
    return method.apply(Ground(clip, TOKENIZER, ["red star", "blue heart"], template, fields or {}))


def trainable(model):
    return {name: parameter.shape for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_every_preset_is_a_method():
    assert set(all_methods()) >= {"zero_shot", "linear_probe", "lora", *PRESETS}


def test_zero_shot_trains_nothing():
    assert trainable(learner("zero_shot").model) == {}


def test_a_linear_probe_trains_one_layer_on_normalized_image_features():
    model = learner("linear_probe").model
    assert trainable(model) == {"head.weight": (2, 64), "head.bias": (2,)}
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.normal_(model.head.bias)
    pixel_values = torch.randn(3, 3, 32, 32)
    features = normalize(model.model.get_image_features(pixel_values=pixel_values).pooler_output, dim=-1)
    expected = model.model.logit_scale.exp() * (features @ model.head.weight.t() + model.head.bias)
    torch.testing.assert_close(model(pixel_values).logits, expected)


def test_lora_trains_the_queries_keys_and_values_of_both_towers():
    shapes = trainable(learner("lora").model)
    text, vision = 3, 4  # layers
    assert len(shapes) == (text + vision) * 3 * 2
    assert {name.split(".")[-4] for name in shapes} == {"q_proj", "k_proj", "v_proj"}
    assert all(2 in shape for shape in shapes.values())  # rank


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains_only_its_adapter(name):
    assert all(".mudpt_adapters." in parameter for parameter in trainable(learner(name).model))


def test_text_prompts_replace_the_first_words_of_the_template():
    assert learner("maple").template_after_prompts == "of a {}."
    assert learner("mudpt", template="a photo of {} here").template_after_prompts == "{} here"


@pytest.mark.parametrize(
    ("name", "starts"),
    [("mudpt", "a photo of a"), ("cocoop_noise", "a photo of a"), ("maple", "a photo"), ("coop", None)],
)
def test_text_prompts_are_initialized_from_the_words_they_replace_except_in_coop(name, starts):
    assert learner(name).model.peft_config["default"].text_prompt_init_text == starts


@pytest.mark.parametrize("name", ["zero_shot", "linear_probe", "lora", "vpt_deep"])
def test_methods_without_text_prompts_use_the_template_of_the_data_set(name):
    assert learner(name).template_after_prompts is None
    assert learner(name, template="one {}").template_after_prompts == "one {}"


@pytest.mark.parametrize(("name", "fields"), [("mudpt", {"prompt_depth": 1}), ("lora", {"r": 1})])
def test_fields_of_the_config_may_be_changed(name, fields):
    config = learner(name, fields).model.peft_config["default"]
    assert all(getattr(config, field) == value for field, value in fields.items())


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("mudp", {}, "'mudp'.* zero_shot, .*coop"),
        ("zero_shot", {"r": 2}, "zero_shot .*no options.* r .*--method_kwargs {'r': 2}"),
        ("linear_probe", {"begin": "zero"}, "linear_probe has the options start; leave begin out"),
        ("linear_probe", {"start": "random"}, "start='random' is not one of text, zero"),
        ("tip_adapter", {"alpha": -1}, "alpha=-1 is not a number from 0"),
        ("tip_adapter", {"beta": "5.5"}, "beta='5.5' is not a number from 0"),
        ("lora", {"rank": 2}, "--method_kwargs {'rank': 2} .*lora"),
        ("mudpt", {"depth": 2}, "--method_kwargs {'depth': 2} .*mudpt"),
    ],
)
def test_an_unknown_method_or_field_is_named(name, fields, message):
    with pytest.raises(ValueError, match=message):
        learner(name, fields)


def test_a_linear_probe_freezes_the_clip():
    probe = LinearProbe(CLIPModel.from_pretrained(demo.MODEL_PATH), ["star", "heart"])
    probe(torch.randn(2, 3, 32, 32)).logits.sum().backward()
    assert all(parameter.grad is None for parameter in probe.model.parameters())
