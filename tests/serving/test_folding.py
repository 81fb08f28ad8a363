"""Adapters without their fusion network."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import CLIPConfig, CLIPModel

from peft_mudpt import MuDPTConfig, fold_adapter
from tests.conftest import SAME_FOR_ALL_IMAGES, build_clip, logits
from tests.towers.test_families import FAMILIES, images, text_inputs
from tests.towers.test_families import adapted as adapted_family


def adapted(preset="mudpt", **fields):
    torch.manual_seed(1)
    return get_peft_model(build_clip(), MuDPTConfig.from_preset(preset, **{"init_std": 0.5, **fields})).eval()


@pytest.mark.parametrize("preset", SAME_FOR_ALL_IMAGES)
def test_a_folded_adapter_computes_the_same(preset, inputs):
    fields = {"num_virtual_tokens": 4} if preset == "coop" else {}
    model = adapted(preset, **fields)
    expected = logits(model, inputs)
    fold_adapter(model)
    assert torch.equal(logits(model, inputs), expected)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folded_adapter_of_each_family_computes_the_same(family):
    model = adapted_family(FAMILIES[family]())
    inputs = dict(**text_inputs(family, [5, 6], [7]), pixel_values=images())
    before = model(**inputs).logits_per_image
    fold_adapter(model)
    assert torch.equal(model(**inputs).logits_per_image, before)


def test_it_is_saved_without_the_network_and_loads_like_any_adapter(inputs, tmp_path):
    model = adapted()
    expected = logits(model, inputs)
    fold_adapter(model)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert {key.rsplit(".", 1)[-1] for key in file.keys()} == {"text_prompts", "vision_prompts"}
    reloaded = PeftModel.from_pretrained(build_clip(), tmp_path).eval()
    assert reloaded.peft_config["default"].folded
    assert torch.equal(logits(reloaded, inputs), expected)


def test_at_vit_b16_the_file_has_less_than_250_kb(tmp_path):
    config = CLIPConfig(text_config={"num_hidden_layers": 9}, vision_config={"num_hidden_layers": 9, "patch_size": 16})
    with torch.device("meta"):  # as wide and as deep as the prompts reach; the weights of CLIP are not saved
        clip = CLIPModel(config)
    model = get_peft_model(clip, MuDPTConfig())
    fold_adapter(model.to_empty(device="cpu"))
    model.save_pretrained(tmp_path)
    assert 184_320 < (tmp_path / "adapter_model.safetensors").stat().st_size < 250_000


def test_it_cannot_be_trained(inputs, tmp_path):
    model = adapted()
    fold_adapter(model)
    model.set_adapter("default")
    assert model.get_nb_trainable_parameters()[0] == 0
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="was folded.*cannot be trained.*the adapter that it was folded from"):
        PeftModel.from_pretrained(build_clip(), tmp_path, is_trainable=True)


@pytest.mark.usefixtures("adapters_of_transformers")
def test_inside_transformers_it_cannot_be_trained_either(tmp_path):
    model = adapted()
    fold_adapter(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="was folded"):
        build_clip().load_adapter(str(tmp_path), is_trainable=True)


def test_the_named_adapter_is_folded_and_no_other(inputs):
    model = adapted()
    model.add_adapter("other", MuDPTConfig(init_std=0.5))
    fold_adapter(model, "other")
    assert model.get_nb_trainable_parameters()[0] > 0
    assert (model.peft_config["default"].folded, model.peft_config["other"].folded) == (False, True)


def test_folding_twice_is_folding_once(inputs):
    model = adapted()
    fold_adapter(model)
    expected = logits(model, inputs)
    fold_adapter(model)
    assert torch.equal(logits(model, inputs), expected)


def test_folded_in_inference_mode_it_can_be_used_outside(inputs):
    model = adapted()
    with torch.inference_mode():
        fold_adapter(model)
    assert not any(buffer.is_inference() for buffer in model.buffers())


def test_one_tower_alone_loads_it(inputs, tmp_path):
    from transformers import CLIPTextModelWithProjection

    model = adapted()
    expected = model.get_text_features(inputs["input_ids"]).pooler_output
    fold_adapter(model)
    model.save_pretrained(tmp_path)
    clip = build_clip()
    clip.config.text_config.projection_dim = clip.config.projection_dim
    tower = CLIPTextModelWithProjection(clip.config.text_config).eval()
    tower.load_state_dict({k: v for k, v in clip.state_dict().items() if k.startswith("text_")})
    alone = PeftModel.from_pretrained(tower, tmp_path)
    torch.testing.assert_close(alone(inputs["input_ids"]).text_embeds, expected, atol=1e-6, rtol=0)


def test_what_is_no_mudpt_adapter_is_refused():
    with pytest.raises(ValueError, match="no MuDPT adapter 'other'; its MuDPT adapters are .'default'."):
        fold_adapter(adapted(), "other")
    with pytest.raises(ValueError, match="no active MuDPT adapter"):
        fold_adapter(get_peft_model(build_clip(), LoraConfig(target_modules=["q_proj"])))


def test_a_config_cannot_be_folded_and_still_fuse():
    with pytest.raises(ValueError, match="folded=True says.*fusion_direction is 'bidirectional'"):
        MuDPTConfig(folded=True)
