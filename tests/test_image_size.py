"""Images of another size, against transformers' own interpolation."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from peft_mudpt import MuDPTConfig, set_image_size
from tests.conftest import build_clip, of_two_layers
from tests.towers.test_families import FAMILIES, adapted
from tests.towers.test_siglip2 import siglip2


PIXELS = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))  # 5 x 5 patches in place of 2 x 2


@pytest.mark.parametrize("with_prompts", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_transformers_own_interpolation(family, with_prompts):
    model = of_two_layers(FAMILIES[family]())
    model = adapted(model) if with_prompts else model.eval()
    own = {} if family == "tipsv2" else {"interpolate_pos_encoding": True}  # TIPSv2 always does
    with torch.no_grad():
        expected = model.get_image_features(PIXELS, **own).pooler_output
        set_image_size(model, 40)
        found = model.get_image_features(PIXELS).pooler_output
    assert torch.equal(found, expected)
    assert model.config.vision_config.image_size == model.vision_model.config.image_size == 40


def test_the_size_that_the_model_has_changes_nothing():
    model = build_clip()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    set_image_size(model, model.config.vision_config.image_size)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_frozen_position_embeddings_stay_frozen():
    model = adapted(build_clip())
    set_image_size(model, 40)
    assert not model.vision_model.embeddings.position_embedding.weight.requires_grad


@pytest.mark.parametrize(("size", "advice"), [(42, "Give 40 or 48"), (5, "Give 8")])
def test_a_size_that_patches_do_not_cover_is_refused_with_the_nearest(size, advice):
    with pytest.raises(ValueError, match=f"image_size={size} is no multiple of the patch size 8, .*{advice}"):
        set_image_size(build_clip(), size)


@pytest.mark.parametrize("size", [0, 40.0, "40"])
def test_what_is_no_number_of_pixels_is_refused(size):
    with pytest.raises(ValueError, match="image_size"):
        set_image_size(build_clip(), size)


def test_a_model_of_any_size_is_refused():
    with pytest.raises(ValueError, match="NaFlex"):
        set_image_size(siglip2(), 40)


def test_position_embeddings_that_an_adapter_has_wrapped_are_refused():
    model = get_peft_model(build_clip(), LoraConfig(target_modules=["vision_model.embeddings.position_embedding"]))
    assert not isinstance(model.vision_model.embeddings.position_embedding, nn.Embedding)
    with pytest.raises(ValueError, match="before the adapter is added"):
        set_image_size(model, 40)


class TestWhatAnAdapterRecords:
    @pytest.mark.parametrize("preset", ["mudpt", "cocoop"])  # cocoop has no prompts in the image tower
    @pytest.mark.parametrize("family", FAMILIES)
    def test_it_is_the_size_that_the_model_takes_when_the_adapter_is_added(self, family, preset):
        model = of_two_layers(FAMILIES[family]())
        assert adapted(model, preset).peft_config["default"].image_size == 16

    def test_a_tower_of_images_says_it_too_and_one_of_texts_does_not(self):
        clip = build_clip()
        image = get_peft_model(clip.vision_model, MuDPTConfig.from_preset("vpt_deep"))
        text = get_peft_model(clip.text_model, MuDPTConfig.from_preset("coop"))
        assert image.peft_config["default"].image_size == 16 and text.peft_config["default"].image_size is None

    def test_it_is_nothing_where_images_may_have_any_size(self):
        assert adapted(siglip2()).peft_config["default"].image_size is None

    def test_a_size_that_is_set_later_is_that_of_each_adapter(self):
        model = adapted(build_clip())
        model.add_adapter("other", MuDPTConfig())
        set_image_size(model, 40)
        assert [config.image_size for config in model.peft_config.values()] == [40, 40]

    @pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, that there are several adapters
    def test_a_size_that_is_set_later_is_found_below_an_adapter_of_another_method(self):
        model = adapted(build_clip())
        set_image_size(get_peft_model(model, LoraConfig(target_modules=["q_proj"]), adapter_name="lora"), 40)
        assert model.peft_config["default"].image_size == 40

    def test_loading_it_on_a_model_of_another_size_warns_and_keeps_the_record(self, tmp_path):
        model = adapted(build_clip())
        set_image_size(model, 40)
        model.save_pretrained(tmp_path)
        with pytest.warns(UserWarning, match="40 x 40 pixels, but the base model takes 16 x 16.*set_image_size.*40"):
            loaded = PeftModel.from_pretrained(build_clip(), tmp_path)
        assert loaded.peft_config["default"].image_size == 40

    def test_loading_it_on_a_model_of_its_size_gives_what_was_saved(self, tmp_path):
        model = adapted(build_clip())
        set_image_size(model, 40)
        model.save_pretrained(tmp_path)
        clip = build_clip()
        set_image_size(clip, 40)
        loaded = PeftModel.from_pretrained(clip, tmp_path).eval()
        with torch.no_grad():
            found, expected = (each.get_image_features(PIXELS).pooler_output for each in (loaded, model))
        assert torch.equal(found, expected)
