"""What PEFT promises of any tuner beside saving and training: configs, names, status, several adapters, refusals."""

import copy
import json
import pickle

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_layer_status, get_model_status, get_peft_model
from peft.utils.hotswap import hotswap_adapter

from peft_mudpt import MuDPTConfig, fold_adapter
from tests.conftest import build_clip, config, hooks_on, logits, trainable


class TestConfig:
    def used(self) -> MuDPTConfig:
        used = config(modules_to_save=["visual_projection"], class_names=["été"], class_template="{}.")
        get_peft_model(build_clip(), used)
        return used

    def test_a_used_config_survives_saving_copying_and_pickling(self, tmp_path):
        used = self.used()
        used.save_pretrained(tmp_path)
        loaded = [MuDPTConfig.from_pretrained(tmp_path), PeftConfig.from_pretrained(tmp_path)]
        for twin in (*loaded, copy.copy(used), copy.deepcopy(used), pickle.loads(pickle.dumps(used))):
            assert type(twin) is MuDPTConfig and twin == used

    def test_as_a_dict_it_makes_an_equal_config(self):
        used = self.used()
        assert MuDPTConfig(**used.to_dict()) == used
        assert MuDPTConfig.from_peft_type(**used.to_dict()) == used

    def test_what_save_pretrained_writes_is_what_the_dict_holds(self, tmp_path):
        used = self.used()
        used.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "adapter_config.json").read_text()) == used.to_dict()
        assert MuDPTConfig.from_json_file(tmp_path / "adapter_config.json") == used.to_dict()

    def test_a_set_of_modules_to_save_is_saved_as_a_list(self, tmp_path):
        config(modules_to_save={"visual_projection"}).save_pretrained(tmp_path)
        assert MuDPTConfig.from_pretrained(tmp_path).modules_to_save == ["visual_projection"]

    def test_the_models_config_is_the_one_it_was_given(self, clip):
        given, added = config(), config()
        model = get_peft_model(clip, given)
        model.add_adapter("other", added)
        assert model.peft_config["default"] is given and model.peft_config["other"] is added
        assert model.active_peft_config is given

    @pytest.mark.parametrize("load", [MuDPTConfig.from_pretrained, PeftConfig.from_pretrained])
    def test_a_field_of_a_later_version_is_named_in_a_warning(self, tmp_path, load):
        used = self.used()
        fields = {**used.to_dict(), "a_field_to_come": 1}
        (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
        with pytest.warns(UserWarning, match="a_field_to_come"):
            assert load(tmp_path) == used

    def test_a_model_with_a_field_of_a_later_version_gives_equal_logits(self, clip, inputs, tmp_path):
        model = get_peft_model(clip, config())
        model.save_pretrained(tmp_path)
        file = tmp_path / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "a_field_to_come": 1}))
        with pytest.warns(UserWarning, match="a_field_to_come"):
            loaded = PeftModel.from_pretrained(build_clip(), tmp_path)
        assert torch.equal(logits(loaded, inputs), logits(model, inputs))

    def test_a_recorded_version_is_kept(self, tmp_path):
        config(peft_mudpt_version="0.0.1", peft_version="0.21.0").save_pretrained(tmp_path)
        loaded = MuDPTConfig.from_pretrained(tmp_path)
        assert (loaded.peft_mudpt_version, loaded.peft_version) == ("0.0.1", "0.21.0")


class TestSeveralAdapters:
    def test_a_name_is_given_once(self, clip, inputs):
        model = get_peft_model(clip, config())
        expected = logits(model, inputs)
        with pytest.raises(ValueError, match="default"):
            model.add_adapter("default", config())
        assert torch.equal(logits(model, inputs), expected)

    @pytest.mark.usefixtures("adapters_of_transformers")
    def test_inside_transformers_a_name_is_given_once(self, clip, inputs):
        clip.add_adapter(config())
        expected = logits(clip, inputs)
        with pytest.raises(ValueError, match="default"):
            clip.add_adapter(config())
        assert torch.equal(logits(clip, inputs), expected)

    def test_an_adapter_of_another_method_is_refused(self, clip, tmp_path):
        lora = LoraConfig(target_modules=["q_proj"])
        get_peft_model(build_clip(), lora).save_pretrained(tmp_path)
        model = get_peft_model(clip, config())
        for add in (lambda: model.add_adapter("other", lora), lambda: model.load_adapter(tmp_path, "other")):
            with pytest.raises(ValueError, match="MUDPT|LORA"):
                add()
        assert list(model.peft_config) == ["default"]

    def test_a_name_that_is_not_there_is_refused(self, clip):
        model = get_peft_model(clip, config())
        for act in (model.set_adapter, model.delete_adapter):
            with pytest.raises(ValueError, match="nobody"):
                act("nobody")
        assert model.active_adapters == ["default"]

    def test_a_model_of_mixed_methods_is_refused(self):
        with pytest.raises(ValueError, match="MUDPT"):
            get_peft_model(build_clip(), config(), mixed=True)
        mixed = get_peft_model(build_clip(), LoraConfig(target_modules=["q_proj"]), mixed=True)
        with pytest.raises(ValueError, match="MUDPT"):
            mixed.add_adapter("prompts", config())

    def test_hot_swapping_is_refused(self, clip, inputs, tmp_path):
        model = get_peft_model(clip, config())
        expected = logits(model, inputs)
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="MUDPT"):
            hotswap_adapter(model, tmp_path, adapter_name="default")
        assert torch.equal(logits(model, inputs), expected)

    @pytest.mark.usefixtures("adapters_of_transformers")
    def test_hot_swapping_inside_transformers_is_refused(self, clip, tmp_path):
        get_peft_model(build_clip(), config()).save_pretrained(tmp_path)
        clip.load_adapter(tmp_path)
        with pytest.raises(ValueError, match="(?i)lora"):
            clip.load_adapter(tmp_path, adapter_name="default", hotswap=True)

    def test_adapters_are_not_weighted_into_one(self, clip):
        model = get_peft_model(clip, config())
        with pytest.raises(AttributeError, match="add_weighted_adapter"):
            model.add_weighted_adapter(["default"], [1.0], "sum")

    def test_each_has_its_own_modules_to_save_and_the_base_keeps_its(self, clip, inputs):
        base = logits(clip, inputs)
        model = get_peft_model(clip, config(modules_to_save=["visual_projection"]))
        model.add_adapter("other", config(modules_to_save=["visual_projection"]))
        copies = model.visual_projection.modules_to_save
        torch.nn.init.zeros_(copies["other"].weight)
        default = logits(model, inputs)
        model.set_adapter("other")
        assert not logits(model, inputs).nan_to_num().any()
        with model.disable_adapter():
            assert torch.equal(logits(model, inputs), base)
        with pytest.warns(UserWarning, match="default"):
            model.delete_adapter("other")
        assert list(copies) == ["default"] and torch.equal(logits(model, inputs), default)
        assert model.modules_to_save == {"visual_projection"}


class TestWrappingAgain:
    def test_under_the_same_name_the_new_adapter_takes_the_place_of_the_old(self, clip, inputs):
        get_peft_model(clip, config())
        hooks = hooks_on(clip)
        torch.manual_seed(1)
        with pytest.warns(UserWarning):
            model = get_peft_model(clip, config(num_virtual_tokens=2))
        fresh = build_clip()
        torch.manual_seed(1)
        assert torch.equal(logits(model, inputs), logits(get_peft_model(fresh, config(num_virtual_tokens=2)), inputs))
        assert hooks_on(clip) == hooks

    def test_under_another_name_both_are_there(self, clip, inputs):
        first = get_peft_model(clip, config())
        expected = logits(first, inputs)
        with pytest.warns(UserWarning):
            second = get_peft_model(clip, config(), adapter_name="other")
        assert second.active_adapters == ["other"] and not torch.allclose(logits(second, inputs), expected, atol=1e-3)
        second.set_adapter("default")
        assert torch.equal(logits(second, inputs), expected)
        assert all(".default." in name for name in trainable(second))

    def test_after_unloading_nothing_of_the_first_is_left(self, clip):
        model = get_peft_model(get_peft_model(clip, config()).unload(), config(), adapter_name="other")
        assert list(model.peft_config) == ["other"]

    def test_the_base_model_is_the_clip_that_was_wrapped(self, clip):
        model = get_peft_model(clip, config())
        assert model.get_base_model() is clip and model.base_model.model is clip
        assert model.config is clip.config


class TestStatus:
    def two_adapters(self, clip) -> PeftModel:
        model = get_peft_model(clip, config(modules_to_save=["visual_projection"]))
        model.add_adapter("other", config())
        return model

    def test_it_tells_adapters_and_what_is_trainable(self, clip):
        model = self.two_adapters(clip)
        status = model.get_model_status()
        assert status == get_model_status(model)
        assert status.peft_types == {"default": "MUDPT", "other": "MUDPT"}
        assert (status.enabled, status.active_adapters, status.available_adapters) == (
            True,
            ["default"],
            ["default", "other"],
        )
        assert status.requires_grad == {"default": True, "other": False}
        assert status.devices == {"default": ["cpu"], "other": ["cpu"]}
        assert status.merged_adapters == [] and status.num_adapter_layers == 2  # ours and the module to save
        assert status.total_params == sum(parameter.numel() for parameter in model.parameters())

    def test_a_module_that_is_switched_off_alone_is_irregular(self, clip):
        model = self.two_adapters(clip)
        model.prompt_learner.enable_adapters(False)
        assert model.get_model_status().enabled == "irregular"

    def test_an_adapter_trainable_in_part_is_irregular(self, clip):
        model = self.two_adapters(clip)
        model.prompt_learner.mudpt_adapters["default"].text_prompts.requires_grad_(False)
        assert model.get_model_status().requires_grad == {"default": "irregular", "other": False}

    def test_adapters_active_in_different_places_are_irregular(self, clip):
        model = self.two_adapters(clip)
        model.prompt_learner.set_adapter("other")
        assert model.get_model_status().active_adapters == "irregular"

    def test_disabled_it_says_so(self, clip):
        model = self.two_adapters(clip)
        with model.disable_adapter():
            assert model.get_model_status().enabled is False
        assert model.get_model_status().enabled is True

    @pytest.mark.usefixtures("adapters_of_transformers")
    def test_a_clip_with_transformers_own_methods_has_one_too(self, clip):
        clip.add_adapter(config())
        (layer,) = get_layer_status(clip)
        assert (layer.name, layer.module_type) == ("prompt_learner", "mudpt.MuDPTLayer")
        assert get_model_status(clip).requires_grad == {"default": True}

    def test_a_folded_adapter_has_nothing_to_train(self, clip):
        model = get_peft_model(clip, config())
        fold_adapter(model)
        status = model.get_model_status()
        assert status.trainable_params == 0 and status.available_adapters == ["default"]

    def test_trainable_parameters_are_printed(self, clip, capsys):
        model = get_peft_model(clip, config())
        ours = sum(parameter.numel() for name, parameter in model.named_parameters() if "mudpt_" in name)
        total = ours + sum(parameter.numel() for parameter in build_clip().parameters())
        assert model.get_nb_trainable_parameters() == (ours, total)
        model.print_trainable_parameters()
        assert f"trainable params: {ours:,d} || all params: {total:,d}" in capsys.readouterr().out
