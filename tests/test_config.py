import json
from dataclasses import fields

import pytest
from peft import PeftConfig

from peft_mudpt import PRESETS, MuDPTClassifier, MuDPTConfig, SDPTConfig
from peft_mudpt.config import TowerShape


TOWERS = {"text": TowerShape(512, 12), "vision": TowerShape(768, 12)}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_survives_saving_and_loading(preset, tmp_path):
    config = MuDPTConfig.from_preset(preset)
    config.resolve(TOWERS, feature_size=512)
    config.save_pretrained(tmp_path)
    assert MuDPTConfig.from_pretrained(tmp_path) == config


def test_the_classes_it_was_trained_on_survive_saving_and_loading(tmp_path):
    MuDPTConfig(class_names=["sea lion", "été"], class_template="of a {}.").save_pretrained(tmp_path)
    loaded = MuDPTConfig.from_pretrained(tmp_path)
    assert (loaded.class_names, loaded.class_template) == (["sea lion", "été"], "of a {}.")


def test_several_texts_of_each_class_survive_saving_and_loading(tmp_path):
    texts = dict(class_templates=["a {}.", "{}"], class_descriptions={"été": ["la saison chaude."]})
    MuDPTConfig(class_names=["été"], **texts).save_pretrained(tmp_path)
    loaded = MuDPTConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in texts} == texts


def test_a_file_from_before_there_were_classes_still_loads(tmp_path):
    MuDPTConfig().save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    fields = json.loads(file.read_text())
    for name in ("class_names", "class_template", "class_templates", "class_descriptions"):
        del fields[name]
    file.write_text(json.dumps(fields))
    assert MuDPTConfig.from_pretrained(tmp_path) == MuDPTConfig()


def test_the_type_in_the_file_is_mudpt(tmp_path):
    MuDPTConfig().save_pretrained(tmp_path)
    assert '"peft_type": "MUDPT"' in (tmp_path / "adapter_config.json").read_text()


def test_the_default_is_the_preset_mudpt():
    assert MuDPTConfig() == MuDPTConfig.from_preset("mudpt")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_says_only_what_differs_from_the_defaults(preset):
    assert [name for name, value in PRESETS[preset].items() if value == getattr(MuDPTConfig(), name)] == []


@pytest.mark.parametrize("config", [MuDPTConfig, SDPTConfig])
def test_every_field_of_ours_has_a_rule(config):
    inherited = {field.name for field in fields(PeftConfig)}
    ours = [field for field in fields(config) if field.name not in inherited]
    assert ours and [field.name for field in ours if "rule" not in field.metadata] == []


def test_a_preset_takes_overrides():
    config = MuDPTConfig.from_preset("coop", num_virtual_tokens=4)
    assert config.num_tokens("text") == 4
    assert config.num_tokens("vision") == 0


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="'cocop'.*coop, .*vpt_shallow"):
        MuDPTConfig.from_preset("cocop")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (dict(num_virtual_tokens=0), "num_virtual_tokens=0"),
        (dict(num_virtual_tokens=2.0), "num_virtual_tokens=2.0"),
        (dict(num_virtual_tokens=True), "num_virtual_tokens=True"),
        (dict(num_virtual_tokens=10**9), "num_virtual_tokens=1000000000 is not a whole number from 1 to 10,000"),
        (dict(vision_hidden_size=10**40), "vision_hidden_size=1000"),
        (dict(init_std=1e300), "init_std=1e.300"),
        (dict(init_std=10**400), "init_std=1000"),
        (dict(init_std=float("nan")), "init_std=nan"),
        (dict(inference_mode="yes"), "inference_mode='yes'"),
        (dict(text_prompt_init_text="a \ud800"), "text_prompt_init_text="),
        (dict(class_names=["cat", "\ud800"]), "class_names="),
        (dict(text_prompt_init_ids={5: [1]}), "text_prompt_init_ids="),
        (dict(text_prompt_init_ids=[]), r"text_prompt_init_ids=\[\]"),
        (dict(vision_num_virtual_tokens=-1), "vision_num_virtual_tokens=-1"),
        (dict(prompt_depth=-1), "prompt_depth=-1"),
        (dict(text_prompt_depth="deep"), "text_prompt_depth='deep'"),
        (dict(init_std=-0.1), "init_std=-0.1"),
        (dict(init_std=True), "init_std=True"),
        (dict(modules_to_save="visual_projection"), "modules_to_save='visual_projection'"),
        (dict(modules_to_save=5), "modules_to_save=5"),
        (dict(modules_to_save=[5]), r"modules_to_save=\[5\]"),
        (dict(text_prompt_init_text=["a", "photo"]), "text_prompt_init_text="),
        (dict(text_prompt_init_ids=[1, 2]), "text_prompt_init_ids="),
        (dict(text_prompt_init_ids={"a": [1.5]}), "text_prompt_init_ids="),
        (dict(fusion_type="mlp"), "fusion_type='mlp'.*linear, transformer"),
        (dict(fusion_direction="both"), "fusion_direction='both'.*bidirectional"),
        (dict(fusion_combine="concat"), "fusion_combine='concat'.*add, replace"),
        (dict(fusion_sharing="none"), "fusion_sharing='none'.*per_layer"),
        (dict(fusion_type=["linear"]), r"fusion_type=\['linear'\]"),
        (dict(text_prompt_depth=0, vision_prompt_depth=0), "text_prompt_depth or vision_prompt_depth"),
        (dict(text_prompt_depth=0), "fusion_direction='bidirectional'.*text"),
        (dict(vision_num_virtual_tokens=0), "fusion_direction='bidirectional'.*vision"),
        (dict(text_num_virtual_tokens=2), "2 text and 4 visual"),
        (dict(fusion_combine="replace"), "fusion_combine='replace'.*'bidirectional'"),
        (
            dict(
                fusion_direction="text_to_vision", fusion_combine="replace", text_prompt_depth=2, vision_prompt_depth=3
            ),
            "text_prompt_depth is 2 and vision_prompt_depth is 3",
        ),
        (dict(fusion_direction="vision_to_text", prompt_depth=1), "vision_to_text.*text_prompt_depth is 1"),
        (
            dict(text_prompt_depth=0, fusion_direction="none", text_prompt_init_text="a photo"),
            "text_prompt_init_text='a photo'",
        ),
        (dict(conditioning="classes"), "conditioning='classes'.*class"),
        (dict(class_token_layer=2), "class_token_layer=2 has no effect with conditioning='none'"),
        (dict(conditioning="class", class_token_layer=0), "class_token_layer=0"),
        (dict(conditioning="class", prompt_depth=3, class_token_layer=2), "class_token_layer=2.*layers up to 2"),
        (dict(conditioning="class", text_prompt_depth=0, fusion_direction="none"), "conditioning='class'.*none"),
        (dict(conditioning="class", condition_template="a cat"), "condition_template='a cat'.*once"),
        (dict(meta_net_reduction=0), "meta_net_reduction=0"),
        (dict(class_names="cat"), "class_names='cat'"),
        (dict(class_names=("cat", "dog")), r"class_names=\('cat', 'dog'\)"),
        (dict(class_names=[]), r"class_names=\[\]"),
        (dict(class_names=["cat", " "]), "class_names=.*non-empty"),
        (dict(class_names=["cat", 1]), r"class_names=\['cat', 1\]"),
        (dict(class_template="a photo."), "class_template='a photo.'.*once"),
        (dict(class_template="{} or {}"), "class_template='{} or {}'.*once"),
        (dict(class_template=["{}."]), "class_template="),
        (dict(class_templates="{}."), "class_templates='{}.'"),
        (dict(class_templates=["{}.", "a photo."]), "class_templates=.*'a photo.'.*once"),
        (dict(class_templates=["{}."], class_template="a {}."), "class_template='a {}.' and class_templates="),
        (dict(class_descriptions={}), "class_descriptions={}"),
        (dict(class_descriptions={"cat": []}), r"class_descriptions={'cat': \[\]}"),
        (dict(class_descriptions={"cat": "furry"}), "class_descriptions={'cat': 'furry'}"),
        (dict(class_names=["cat", "dog"], calibration={"temperature": 1.0}), "calibration={.* is not a dict of temp"),
        (dict(class_names=["cat"], calibration={"temperature": 0, "scores": [[1.0]]}), "calibration={'scores"),
        (dict(class_names=["cat"], calibration={"temperature": 1.0, "scores": [["1"]]}), "calibration={'scores"),
        (dict(class_names=["cat"], calibration={"temperature": None, "scores": [[1.0], []]}), "of 2 .* has 1"),
        (dict(task_type="FEATURE_EXTRACTION"), "task_type='FEATURE_EXTRACTION'"),
        (dict(first_layer=-1), "first_layer=-1"),
        (dict(vision_first_layer=1.5), "vision_first_layer=1.5"),
        (dict(class_token_layer=3, conditioning="image"), "class_token_layer=3.*conditioning='image'"),
    ],
)
def test_a_combination_that_means_nothing_is_refused_by_name(fields, named):
    with pytest.raises(ValueError, match=named):
        MuDPTConfig(**fields)


def test_no_depth_given_means_nine_layers_or_all_of_the_shallower_tower():
    config = MuDPTConfig()
    config.resolve(TOWERS)
    assert (config.depth("text"), config.depth("vision")) == (9, 9)
    config = MuDPTConfig()
    config.resolve({"text": TowerShape(32, 3), "vision": TowerShape(48, 12)})
    assert (config.depth("text"), config.depth("vision")) == (3, 3)


def test_depth_all_means_every_layer_of_each_tower():
    config = MuDPTConfig.from_preset("ivlp")
    config.resolve({"text": TowerShape(768, 12), "vision": TowerShape(1024, 24)})
    assert (config.depth("text"), config.depth("vision")) == (12, 24)


def test_a_depth_beyond_the_tower_is_refused_and_changes_nothing():
    config = MuDPTConfig(prompt_depth=13)
    before = config.to_dict()
    with pytest.raises(ValueError, match="text_prompt_depth .or prompt_depth. is 13.*12 layers"):
        config.resolve(TOWERS)
    assert config.to_dict() == before


def test_a_config_of_one_base_is_refused_on_another_width():
    config = MuDPTConfig()
    config.resolve(TOWERS)
    with pytest.raises(ValueError, match="text_hidden_size=512.*640 wide.*new MuDPTConfig"):
        config.resolve({"text": TowerShape(640, 12), "vision": TowerShape(768, 12)})


def test_one_tower_is_enough_where_the_config_knows_the_other():
    config = MuDPTConfig()
    with pytest.raises(ValueError, match="no vision tower.*vision_prompt_depth=0"):
        config.resolve({"text": TOWERS["text"]})
    config.resolve(TOWERS)
    config.resolve({"text": TOWERS["text"]})
    assert config.depth("vision") == 9


def test_a_side_without_prompts_leaves_its_tower_open():
    config = MuDPTConfig.from_preset("coop")
    config.resolve(TOWERS)
    config.resolve({"text": TOWERS["text"], "vision": TowerShape(1024, 24)})
    assert config.vision_hidden_size is None


def test_a_config_changed_to_nonsense_is_refused_when_used():
    config = MuDPTConfig()
    config.num_virtual_tokens = "4"
    with pytest.raises(ValueError, match="num_virtual_tokens='4'"):
        config.resolve(TOWERS)


HOSTILE = {
    "nothing": "",
    "null": "null",
    "a list": '[{"peft_type": "MUDPT"}]',
    "a number": "1",
    "nested deeply": "[" * 100_000,
    "nested deeply in a field": '{"peft_type": "MUDPT", "class_names": ' + "[" * 5000 + "]" * 5000 + "}",
    "no text": b"\xff\xfe\x00",
    "no method": '{"peft_type": null}',
    "a list of methods": '{"peft_type": ["MUDPT"]}',
    "an unknown method": '{"peft_type": "NONE"}',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("read", [MuDPTConfig.from_pretrained, MuDPTClassifier.from_pretrained])
def test_a_file_that_holds_no_config_is_refused_with_its_place(read, content, tmp_path):
    (tmp_path / "adapter_config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"(?s){tmp_path}.*read.*an adapter"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("fields", "feature_size", "said"),
    [
        (dict(class_token_layer=12), 512, "class_token_layer is 12.*12 layers.*at most 11"),
        (dict(prompt_depth=9), 512, "class_token_layer=8.*layers up to 8"),
        (dict(feature_size=640), 512, "feature_size=640.*512 channels"),
        (dict(), None, "conditioning='class' needs the features.*feature_size"),
    ],
)
def test_class_tokens_that_do_not_fit_the_model_are_refused(fields, feature_size, said):
    config = MuDPTConfig.from_preset("tcp", **fields)
    with pytest.raises(ValueError, match=said):
        config.resolve(TOWERS, feature_size)
    assert config == MuDPTConfig.from_preset("tcp", **fields)


@pytest.mark.parametrize(("layers", "layer"), [(12, 8), (24, 16), (3, 2), (2, 1)])
def test_the_tokens_of_a_class_start_after_two_thirds_of_the_layers(layers, layer):
    config = MuDPTConfig.from_preset("tcp")
    config.resolve({**TOWERS, "text": TowerShape(512, layers)}, feature_size=512)
    assert config.class_token_layer == layer
