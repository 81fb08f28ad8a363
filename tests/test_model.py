"""The life of adapters on a CLIP, as PEFT and transformers lead it."""

from functools import partial

import pytest
import torch
from peft import (
    AutoPeftModel,
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPModel, CLIPTextModelWithProjection, OwlViTConfig, OwlViTForObjectDetection

import peft_mudpt.model
from peft_mudpt import PRESETS, MuDPTConfig, demo
from peft_mudpt.prompts.prompts import MultiModalPrompts
from tests.conftest import another_clip, build_clip, completed, config, hooks_on, logits, trainable


# PEFT warns of a model with two adapters, and of a name within its prefix.
anyway = pytest.mark.filterwarnings("ignore::UserWarning:peft[.]")
NAME_PARTS = ("weight", "model", "text_prompts", "prompt_learner", "mudpt_adapters", "layers")


class TestAdding:
    @pytest.mark.parametrize("preset", PRESETS)
    def test_exactly_the_adapters_parameters_are_trainable(self, clip, preset):
        model = get_peft_model(clip, MuDPTConfig.from_preset(preset))
        assert trainable(model) == {name for name, _ in model.named_parameters() if "mudpt_" in name}
        assert trainable(model)

    @pytest.mark.parametrize("preset", PRESETS)
    def test_every_parameter_takes_part(self, clip, inputs, preset):
        model = get_peft_model(clip, MuDPTConfig.from_preset(preset))
        model(**completed(model, inputs)).logits_per_image.square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []

    def test_a_model_that_is_no_clip_is_refused_and_left_as_it_was(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        with pytest.raises(ValueError, match="Sequential is no CLIP"):
            get_peft_model(model, config())
        assert len(model) == 2 and hooks_on(model) == 0
        assert all(parameter.requires_grad for parameter in model.parameters())

    @pytest.mark.parametrize("wrap", [partial(torch.compile, backend="eager"), nn.DataParallel])
    def test_a_base_in_a_wrapper_that_renames_its_tensors_is_refused(self, clip, wrap):
        with pytest.raises(ValueError, match="Add the adapter to the plain model first"):
            get_peft_model(wrap(clip), config())
        assert hooks_on(clip) == 0 and not hasattr(clip, "prompt_learner")

    def test_a_base_with_a_compiled_module_is_refused_by_name(self, clip):
        clip.text_model.encoder.layers[1] = torch.compile(clip.text_model.encoder.layers[1], backend="eager")
        with pytest.raises(ValueError, match="'text_model.encoder.layers.1' in the base model is compiled"):
            get_peft_model(clip, config())

    def test_a_compiled_adapted_model_takes_another_adapter_that_loads_onto_a_plain_one(self, clip, inputs, tmp_path):
        model = torch.compile(get_peft_model(clip, config()), backend="eager")
        model.add_adapter("other", config(num_virtual_tokens=2))
        model.set_adapter("other")
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(another_clip(), tmp_path / "other")
        assert torch.equal(logits(loaded, inputs), logits(model._orig_mod, inputs))

    def test_a_model_of_another_kind_is_refused_with_its_type(self):
        sizes = dict(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
        model = OwlViTForObjectDetection(OwlViTConfig(text_config=sizes, vision_config=sizes))
        with pytest.raises(ValueError, match=r"OwlViTForObjectDetection \(model_type 'owlvit'\) is no CLIP"):
            get_peft_model(model, config())

    def test_a_config_that_does_not_fit_leaves_the_model_as_it_was(self, clip, inputs):
        before = trainable(clip)
        with pytest.raises(ValueError, match="prompt_depth"):
            get_peft_model(clip, config(prompt_depth=4))  # the text tower has three layers
        assert hooks_on(clip) == 0 and not hasattr(clip, "prompt_learner") and trainable(clip) == before

    @pytest.mark.parametrize("wrong", [{"prompt_depth": 4}, {"modules_to_save": ["logit_scale"]}])
    def test_a_config_that_is_refused_stays_as_it_was(self, clip, wrong):
        refused = config(**wrong)
        before = refused.to_dict()
        with pytest.raises(ValueError):
            get_peft_model(clip, refused)
        assert refused.to_dict() == before

    def test_the_config_is_validated_once_the_towers_found_once_and_the_prompts_built_twice(self, clip, monkeypatch):
        new, calls, devices = config(), [], []

        def count(owner, name):
            original = getattr(owner, name)
            monkeypatch.setattr(owner, name, lambda *args: calls.append(name) or original(*args))

        class Counted(MultiModalPrompts):
            def __init__(self, config):
                super().__init__(config)
                devices.append(self.text_prompts.device.type)

        count(MuDPTConfig, "validate")
        count(peft_mudpt.model, "find_towers")
        monkeypatch.setattr(peft_mudpt.model, "MultiModalPrompts", Counted)
        get_peft_model(clip, new)
        assert sorted(calls) == ["find_towers", "validate"]
        assert devices == ["meta", "cpu"]

    def test_more_prompts_than_positions_are_refused(self, clip):
        with pytest.raises(ValueError, match="22 text prompt tokens.*24 positions.*at most 21"):
            get_peft_model(clip, config(num_virtual_tokens=22))

    @anyway
    @pytest.mark.parametrize("name", [*NAME_PARTS, "a.b", "keys", "training", ""])
    def test_a_name_that_peft_would_confuse_is_refused(self, clip, name):
        with pytest.raises(ValueError, match="cannot be the name of an adapter"):
            get_peft_model(clip, config(), adapter_name=name)
        assert hooks_on(clip) == 0 and not hasattr(clip, "prompt_learner")

    @pytest.mark.parametrize("name", ["..", "../x", "a/b", "/a/x", "a\\b", "a\0b"])
    def test_a_name_that_leads_out_of_the_folder_it_is_saved_in_is_refused(self, clip, name):
        with pytest.raises(ValueError, match="cannot be the name of an adapter"):
            get_peft_model(clip, config(), adapter_name=name)
        assert hooks_on(clip) == 0 and not hasattr(clip, "prompt_learner")

    def test_a_later_adapter_is_held_against_the_names_of_the_earlier(self, clip):
        model = get_peft_model(clip, config(), adapter_name="input_layer")
        with pytest.raises(ValueError, match="'input_layer' cannot be the name"):
            model.add_adapter("other", MuDPTConfig.from_preset("mudpt_linear"))
        assert list(model.peft_config) == ["input_layer"]

    @anyway
    def test_what_other_adapters_put_into_the_model_takes_no_name(self, clip):
        inject_adapter_in_model(LoraConfig(target_modules=["q_proj"]), clip, adapter_name="first")
        model = get_peft_model(clip, config(modules_to_save=["visual_projection"]), adapter_name="second")
        model.add_adapter("third", config())
        assert list(model.prompt_learner.mudpt_adapters) == ["second", "third"]

    @anyway
    def test_lora_on_the_position_table_does_not_disturb(self, clip, inputs):
        model = get_peft_model(clip, config())
        expected = logits(model, inputs)
        inject_adapter_in_model(LoraConfig(target_modules=["position_embedding"]), clip, adapter_name="lora")
        torch.testing.assert_close(logits(model, inputs), expected)

    @pytest.mark.parametrize("wanted", ["embeddings", "encoder", "text_model", "layers.1", "vision_model"])
    def test_modules_to_save_that_hold_the_prompts_entrance_are_refused(self, clip, wanted):
        with pytest.raises(ValueError, match=f"modules_to_save names '{wanted}'"):
            get_peft_model(clip, config(modules_to_save=[wanted]))

    def test_modules_to_save_within_one_another_are_refused(self, clip):
        with pytest.raises(ValueError, match=r"modules_to_save names '.*\.mlp\.fc1' and a module that contains it"):
            get_peft_model(clip, config(modules_to_save=["mlp", "fc1"]))

    def test_modules_to_save_that_are_no_modules_are_refused(self, clip):
        with pytest.raises(ValueError, match="'logit_scale'.*no such module"):
            get_peft_model(clip, config(modules_to_save=["logit_scale"]))


class TestSaving:
    @pytest.mark.parametrize("preset", PRESETS)
    def test_a_saved_adapter_gives_equal_logits(self, clip, inputs, preset, tmp_path):
        model = get_peft_model(clip, MuDPTConfig.from_preset(preset, init_std=0.5))
        expected = logits(model, inputs)
        model.save_pretrained(tmp_path)
        reloaded = PeftModel.from_pretrained(model.unload(), tmp_path)
        assert torch.equal(logits(reloaded, inputs), expected)

    def test_the_file_holds_the_adapter_and_nothing_else(self, clip, tmp_path):
        model = get_peft_model(clip, config())
        model.save_pretrained(tmp_path)
        weights = load_file(tmp_path / "adapter_model.safetensors")
        assert sum(w.numel() for w in weights.values()) == model.get_nb_trainable_parameters()[0]
        assert all(key.count("mudpt_") == 1 and "default" not in key for key in weights)

    def test_it_loads_under_another_name_beside_others(self, clip, inputs, tmp_path):
        model = get_peft_model(clip, config())
        expected = logits(model, inputs)
        model.save_pretrained(tmp_path)
        model = get_peft_model(model.unload(), MuDPTConfig.from_preset("coop"), adapter_name="first")
        result = model.load_adapter(tmp_path, adapter_name="second")
        assert not result.unexpected_keys
        assert trainable(model) and all(".first." in name for name in trainable(model))
        model.set_adapter("second")
        assert torch.equal(logits(model, inputs), expected)

    @pytest.mark.parametrize("names", [("default", "default_2"), ("a", "aa")])
    def test_similar_names_do_not_leak_into_each_other(self, clip, names):
        model = get_peft_model(clip, config(), adapter_name=names[0])
        model.add_adapter(names[1], config(num_virtual_tokens=2))
        for name, tokens in zip(names, (4, 2)):
            weights = get_peft_model_state_dict(model, adapter_name=name)
            assert weights["base_model.model.prompt_learner.mudpt_adapters.text_prompts"].shape == (3, tokens, 32)
            assert len(weights) == sum(f".{name}." in key for key, _ in model.named_parameters())

    def test_loading_with_little_memory_gives_equal_logits(self, clip, inputs, tmp_path):
        model = get_peft_model(clip, config())
        expected = logits(model, inputs)
        model.save_pretrained(tmp_path)
        reloaded = PeftModel.from_pretrained(model.unload(), tmp_path, low_cpu_mem_usage=True)
        assert torch.equal(logits(reloaded, inputs), expected)
        reloaded.load_adapter(tmp_path, adapter_name="again", low_cpu_mem_usage=True)
        reloaded.set_adapter("again")
        assert torch.equal(logits(reloaded, inputs), expected)

    def test_loading_for_training_goes_on_training(self, clip, tmp_path):
        get_peft_model(clip, config()).save_pretrained(tmp_path)
        fresh = PeftModel.from_pretrained(another_clip(), tmp_path)
        assert trainable(fresh) == set()
        again = PeftModel.from_pretrained(another_clip(), tmp_path, is_trainable=True)
        assert trainable(again) == {name for name, _ in again.named_parameters() if "mudpt_" in name}

    def test_auto_peft_model_finds_the_base(self, tmp_path, inputs):
        clip = CLIPModel.from_pretrained(demo.MODEL_PATH)
        get_peft_model(clip, config()).save_pretrained(tmp_path)
        model = AutoPeftModel.from_pretrained(tmp_path)
        assert isinstance(model.get_base_model(), CLIPModel)

    def test_an_adapter_of_another_width_is_refused_before_anything_changes(self, clip, tmp_path):
        get_peft_model(clip, config()).save_pretrained(tmp_path)
        other = build_clip(vision_width=64)
        with pytest.raises(ValueError, match="vision_hidden_size=48.*64 wide"):
            PeftModel.from_pretrained(other, tmp_path)
        assert hooks_on(other) == 0 and not hasattr(other, "prompt_learner")

    def test_modules_to_save_are_trained_and_saved_with_the_prompts(self, clip, inputs, tmp_path):
        model = get_peft_model(clip, config(modules_to_save=["visual_projection"]))
        saved = [name for name in trainable(model) if "visual_projection" in name]
        assert len(saved) == 1
        with torch.no_grad():
            model.get_parameter(saved[0]).mul_(2)
            model.get_parameter(saved[0])[0].zero_()
        expected = logits(model, inputs)
        model.save_pretrained(tmp_path)
        reloaded = PeftModel.from_pretrained(another_clip(), tmp_path)
        assert torch.equal(logits(reloaded, inputs), expected)

    def test_layer_norms_can_be_trained_beside_the_prompts(self, clip, inputs, tmp_path):
        model = get_peft_model(clip, config(modules_to_save=["layer_norm1"]))
        assert sum("layer_norm1.modules_to_save" in name for name in trainable(model)) == 2 * 7
        with torch.no_grad():
            for name in trainable(model):
                model.get_parameter(name).mul_(1.1)
        expected = logits(model, inputs)
        model.save_pretrained(tmp_path)
        assert torch.equal(logits(PeftModel.from_pretrained(another_clip(), tmp_path), inputs), expected)

    def test_a_tower_alone_takes_the_modules_it_has(self, clip, tmp_path):
        get_peft_model(clip, config(modules_to_save=["visual_projection"])).save_pretrained(tmp_path)
        text = PeftModel.from_pretrained(CLIPTextModelWithProjection(clip.config.text_config), tmp_path)
        assert hooks_on(text) > 0

    @anyway
    def test_other_methods_load_beside_it_with_little_memory(self, clip, tmp_path):
        lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
        get_peft_model(build_clip(), lora).save_pretrained(tmp_path)
        inject_adapter_in_model(config(), clip, adapter_name="prompts")
        inject_adapter_in_model(lora, clip, adapter_name="lora", low_cpu_mem_usage=True)
        weights = load_file(tmp_path / "adapter_model.safetensors")
        result = set_peft_model_state_dict(clip, weights, adapter_name="lora", low_cpu_mem_usage=True)
        assert not result.unexpected_keys


class TestSwitching:
    def test_disabled_it_is_the_base_model_bit_for_bit(self, clip, inputs):
        base = logits(clip, inputs)
        model = get_peft_model(clip, config())
        on = logits(model, inputs)
        with model.disable_adapter():
            assert torch.equal(logits(model, inputs), base)
            with model.disable_adapter():
                assert torch.equal(logits(model, inputs), base)
        assert torch.equal(logits(model, inputs), on)
        assert not torch.allclose(on, base, atol=1e-3)

    def test_adapters_of_different_shape_take_turns(self, clip, inputs):
        shapes = {
            "default": config(),
            "deep": config(num_virtual_tokens=2, text_prompt_depth=3, vision_prompt_depth=4),
            "text": config(num_virtual_tokens=5, prompt_depth=1, vision_prompt_depth=0, fusion_direction="none"),
            "vision": MuDPTConfig.from_preset("vpt_deep", init_std=0.5),
        }
        model = get_peft_model(clip, shapes["default"])
        for name in list(shapes)[1:]:
            model.add_adapter(name, shapes[name])
        expected = {}
        for name in shapes:
            model.set_adapter(name)
            expected[name] = logits(model, inputs)
            assert all(f".{name}." in parameter for parameter in trainable(model))
        for name in ("vision", "default", "text", "deep"):
            model.set_adapter(name)
            assert torch.equal(logits(model, inputs), expected[name])

    def test_two_at_once_are_refused(self, clip):
        model = get_peft_model(clip, config())
        model.add_adapter("other", config())
        with pytest.raises(ValueError, match="cannot be active together"):
            model.base_model.set_adapter(["default", "other"])
        assert model.active_adapters == ["default"]

    def test_an_adapter_per_sample_is_refused(self, clip, inputs):
        model = get_peft_model(clip, config())
        names = ["default"] * 3
        with pytest.raises(ValueError, match="adapter_names="):
            model(**inputs, adapter_names=names)
        with pytest.raises(ValueError, match="adapter_names="):
            model.get_text_features(inputs["input_ids"], adapter_names=names)
        with pytest.raises(ValueError, match="adapter_names="):
            model.get_image_features(inputs["pixel_values"], adapter_names=names)

    @anyway
    def test_lora_works_beside_it(self, clip, inputs):
        model = get_peft_model(clip, config()).get_base_model()
        alone = logits(model, inputs)
        lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
        inject_adapter_in_model(lora, model, adapter_name="lora")
        both = logits(model, inputs)
        assert not torch.allclose(both, alone, atol=1e-4)
        model.prompt_learner.enable_adapters(False)
        assert not torch.allclose(logits(model, inputs), both, atol=1e-4)

    def test_status_helpers_name_the_method(self, clip):
        model = get_peft_model(clip, config())
        (layer,) = model.get_layer_status()
        assert (layer.module_type, layer.active_adapters, layer.available_adapters) == (
            "mudpt.MuDPTLayer",
            ["default"],
            ["default"],
        )
        status = model.get_model_status()
        assert status.adapter_model_type == "MuDPTModel" and status.peft_types == {"default": "MUDPT"}
        assert status.trainable_params == model.get_nb_trainable_parameters()[0]


class TestRemoving:
    def test_unloading_gives_the_base_model_back_bit_for_bit(self, clip, inputs):
        base, hooks, names = logits(clip, inputs), hooks_on(clip), [name for name, _ in clip.named_modules()]
        restored = get_peft_model(clip, config()).unload()
        assert restored is clip
        assert torch.equal(logits(restored, inputs), base)
        assert hooks_on(restored) == hooks and [name for name, _ in restored.named_modules()] == names

    def test_deleting_the_active_adapter_activates_another(self, clip, inputs):
        model = get_peft_model(clip, config())
        model.add_adapter("other", config())
        model.set_adapter("other")
        other = logits(model, inputs)
        model.set_adapter("default")
        with pytest.warns(UserWarning, match="other"):
            model.delete_adapter("default")
        assert torch.equal(logits(model, inputs), other)
        assert not any(".default." in name for name, _ in model.named_parameters())

    def test_deleting_the_last_adapter_leaves_no_hook(self, clip, inputs):
        base = logits(clip, inputs)
        model = get_peft_model(clip, config())
        model.delete_adapter("default")
        assert hooks_on(model) == 0
        assert torch.equal(logits(clip, inputs), base)
        model.add_adapter("again", config())
        model.set_adapter("again")
        assert not torch.allclose(logits(model, inputs), base, atol=1e-3)

    def test_merging_is_refused_with_a_reason(self, clip, inputs):
        model = get_peft_model(clip, config())
        expected = logits(model, inputs)
        for merge in (model.merge_and_unload, model.merge_adapter, model.unmerge_adapter):
            with pytest.raises(ValueError, match="cannot be merged"):
                merge()
        assert torch.equal(logits(model, inputs), expected)


class TestInsideTransformers:
    @anyway
    @pytest.mark.usefixtures("adapters_of_transformers")
    def test_the_models_own_adapter_methods_work(self, clip, inputs, tmp_path):
        base = logits(clip, inputs)
        clip.add_adapter(config())
        expected = logits(clip, inputs)
        clip.disable_adapters()
        assert torch.equal(logits(clip, inputs), base)
        clip.enable_adapters()
        assert torch.equal(logits(clip, inputs), expected)
        clip.save_pretrained(tmp_path)
        assert not (tmp_path / "model.safetensors").exists()
        clip.add_adapter(config(num_virtual_tokens=2), adapter_name="other")
        clip.set_adapter("default")
        assert torch.equal(logits(clip, inputs), expected)
        clip.delete_adapter(["default", "other"])
        assert torch.equal(logits(clip, inputs), base)
        fresh = another_clip()
        fresh.load_adapter(str(tmp_path))
        assert torch.equal(logits(fresh, inputs), expected)

    def test_a_model_is_loaded_with_its_adapter(self, tmp_path):
        clip = CLIPModel.from_pretrained(demo.MODEL_PATH)
        model = get_peft_model(clip, config())
        model.save_pretrained(tmp_path)
        inputs = {"input_ids": torch.tensor([[589, 5, 590]]), "pixel_values": torch.randn(1, 3, 32, 32)}
        loaded = CLIPModel.from_pretrained(tmp_path)
        assert torch.equal(logits(loaded, inputs), logits(model, inputs))
