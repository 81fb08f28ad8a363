"""What PEFT promises of a tuner: saving, loading, switching, names, status and refusals."""

import copy
import json

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from peft_mudpt import SDPTConfig
from peft_mudpt.sdpt.layer import sdpt_layer_of
from tests.conftest import hooks_on, trainable
from tests.sdpt.conftest import ATTENTION_WIDTH, LAYERS, assert_equal, build_detector, config, outputs


WEIGHTS = "adapter_model.safetensors"
KEY = "base_model.model.model.encoder.prompt_learner.sdpt_adapters.prototypes"


@pytest.fixture
def detector() -> nn.Module:
    """One family is enough here: both are the same to PEFT."""
    return build_detector()


@pytest.fixture
def saved(batch, tmp_path):
    """A folder with an adapter, and the outputs of the model it comes from."""
    model = get_peft_model(build_detector(), config())
    model.save_pretrained(tmp_path)
    return tmp_path, outputs(model, batch)


class TestSaving:
    def test_the_file_holds_the_prototypes_alone(self, saved):
        weights = load_file(saved[0] / WEIGHTS)
        assert {name: tensor.shape for name, tensor in weights.items()} == {KEY: (LAYERS, 4, ATTENTION_WIDTH)}
        assert (saved[0] / WEIGHTS).stat().st_size <= 4 * LAYERS * 4 * ATTENTION_WIDTH + 1000

    @pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
    @pytest.mark.parametrize("name", ["default", "other"])
    def test_it_loads_under_any_name_bit_for_bit(self, saved, batch, name, low_cpu_mem_usage):
        folder, expected = saved
        model = PeftModel.from_pretrained(
            build_detector(), folder, adapter_name=name, low_cpu_mem_usage=low_cpu_mem_usage
        )
        assert_equal(outputs(model, batch), expected)
        assert trainable(model) == set()

    def test_it_loads_to_be_trained_further(self, saved):
        model = PeftModel.from_pretrained(build_detector(), saved[0], is_trainable=True)
        assert trainable(model) == {KEY.replace(".prototypes", ".default.prototypes")}

    def test_a_copy_is_independent(self, detector, batch):
        model = get_peft_model(detector, config())
        expected, twin = outputs(model, batch), copy.deepcopy(model)
        assert_equal(outputs(twin, batch), expected)
        sdpt_layer_of(twin).sdpt_adapters["default"].prototypes.data.zero_()
        assert_equal(outputs(model, batch), expected)
        assert not torch.equal(outputs(twin, batch)["pred_boxes"], expected["pred_boxes"])

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda t: {KEY: t[KEY][:, :3]}, "shape"),
            (lambda t: {KEY: t[KEY] * float("nan")}, "NaN"),
            (lambda t: {}, "is missing"),
            (lambda t: {**t, KEY.replace("prototypes", "others"): t[KEY].clone()}, "no part of it"),
        ],
    )
    def test_damaged_weights_are_refused_and_leave_no_adapter(self, saved, damage, message):
        folder, _ = saved
        save_file({k: t.contiguous() for k, t in damage(load_file(folder / WEIGHTS)).items()}, folder / WEIGHTS)
        model = get_peft_model(build_detector(), config(), adapter_name="first")
        with pytest.raises(ValueError, match=message):
            model.load_adapter(folder, "second")
        assert list(sdpt_layer_of(model).sdpt_adapters) == list(model.peft_config) == ["first"]

    def test_the_weights_of_another_width_are_refused(self, saved):
        with pytest.raises(ValueError, match="embed_dim=256"):
            PeftModel.from_pretrained(build_detector(encoder_ffn_dim=256), saved[0])

    def test_a_wrong_file_is_told_in_one_sentence(self, saved):
        file = saved[0] / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "num_virtual_tokens": 0}))
        with pytest.raises(ValueError, match="num_virtual_tokens=0"):
            PeftModel.from_pretrained(build_detector(), saved[0])


class TestSwitching:
    def test_adapters_of_different_shape_take_turns(self, detector, batch):
        model = get_peft_model(detector, config())
        model.add_adapter("one", config(num_virtual_tokens=2, layers_to_transform=[1]))
        model.add_adapter("released", config(mask_text_prompts=True))
        expected = {}
        for name in ("default", "one", "released"):
            model.set_adapter(name)
            expected[name] = outputs(model, batch)
            assert all(f".{name}." in parameter for parameter in trainable(model)) and len(trainable(model)) == 1
        for name in ("one", "default", "released"):
            model.set_adapter(name)
            assert_equal(outputs(model, batch), expected[name])
        assert hooks_on(detector) == hooks_on(build_detector()) + 4

    def test_two_at_once_are_refused(self, detector):
        model = get_peft_model(detector, config())
        model.add_adapter("other", config())
        with pytest.raises(ValueError, match=r"SDPT adapters \['default', 'other'\] cannot be active together"):
            model.base_model.set_adapter(["default", "other"])

    def test_an_adapter_per_sample_is_refused(self, detector, batch):
        with pytest.raises(ValueError, match="adapter_names="):
            get_peft_model(detector, config())(**batch, adapter_names=["default"] * 3)

    def test_status_helpers_name_the_method(self, detector):
        model = get_peft_model(detector, config())
        (layer,) = model.get_layer_status()
        assert (layer.module_type, layer.active_adapters) == ("sdpt.SDPTLayer", ["default"])
        assert model.get_model_status().peft_types == {"default": "SDPT"}

    @pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter", "unmerge_adapter"])
    def test_merging_is_refused(self, detector, merge, batch):
        model = get_peft_model(detector, config())
        expected = outputs(model, batch)
        with pytest.raises(ValueError, match="SDPT adapter cannot be merged"):
            getattr(model, merge)()
        assert_equal(outputs(model, batch), expected)

    @pytest.mark.parametrize("name", ["encoder", "prototypes", "sdpt_adapters", "prompt_learner", "a.b"])
    def test_a_name_that_peft_would_mix_up_is_refused(self, detector, name):
        with pytest.raises(ValueError, match="cannot be the name of an adapter"):
            get_peft_model(detector, config(), adapter_name=name)
        assert not hasattr(detector, "peft_config") and sdpt_layer_of(detector) is None

    def test_a_refused_second_adapter_leaves_the_first(self, detector, batch):
        model = get_peft_model(detector, config())
        expected = outputs(model, batch)
        with pytest.raises(ValueError, match="at most 1"):
            model.add_adapter("other", config(layers_to_transform=9))
        assert list(model.peft_config) == ["default"]
        assert_equal(outputs(model, batch), expected)


class TestModulesToSave:
    def test_a_module_beside_the_fusion_layers_is_trained_and_saved(self, detector, batch, tmp_path):
        model = get_peft_model(detector, config(modules_to_save=["text_projection"]))
        torch.nn.init.normal_(model.base_model.model.model.text_projection.modules_to_save["default"].bias)
        expected = outputs(model, batch)
        model.save_pretrained(tmp_path)
        assert_equal(outputs(PeftModel.from_pretrained(build_detector(), tmp_path), batch), expected)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("layers.0.fusion_layer", "prompts enter"),
            ("attn.vision_proj", "from which they are computed"),
            ("fusion_layer.attn", "such as 'values_vision_proj'"),
            ("nobody", "no such module"),
            ("model.decoder.layers", "ModuleList"),
            ("vision_inverse", "no such module|part of the adapter"),
        ],
    )
    def test_a_module_that_peft_could_not_train_is_refused_untouched(self, name, message):
        detector = build_detector()
        with pytest.raises(ValueError, match=message):
            get_peft_model(detector, config(modules_to_save=[name]))
        assert sdpt_layer_of(detector) is None

    def test_a_head_that_shares_its_weights_is_refused(self):
        with pytest.raises(ValueError, match=r"'bbox_embed.0'.*shares its weights with '(model.decoder.)?bbox_embed"):
            get_peft_model(build_detector(), config(modules_to_save=["bbox_embed.0"]))


def test_a_public_name_is_found_by_peft():
    assert type(get_peft_model(build_detector(), SDPTConfig()).base_model).__name__ == "SDPTModel"


def test_the_state_dict_of_each_adapter_is_its_own(detector):
    model = get_peft_model(detector, config())
    model.add_adapter("other", config())
    weights = [get_peft_model_state_dict(model, adapter_name=name)[KEY] for name in ("default", "other")]
    assert not torch.equal(*weights)
