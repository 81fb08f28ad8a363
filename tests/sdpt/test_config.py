"""The config of SDPT: its rules, and what is filled in."""

import copy
import json
import pickle

import pytest
from peft import PeftConfig, get_peft_model
from peft.utils import PeftType

import peft_mudpt
from peft_mudpt import SDPTConfig
from tests.sdpt.conftest import build_detector, config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(num_virtual_tokens=0), "num_virtual_tokens=0 is not a whole number from 1"),
        (dict(num_virtual_tokens=True), "num_virtual_tokens=True"),
        (dict(num_virtual_tokens=2.0), "num_virtual_tokens=2.0"),
        (dict(layers_to_transform=-1), "layers_to_transform=-1 is not a layer"),
        (dict(layers_to_transform=[]), r"layers_to_transform=\[\]"),
        (dict(layers_to_transform=[0, 0]), r"layers_to_transform=\[0, 0\].*different"),
        (dict(layers_to_transform=["0"]), "layers_to_transform="),
        (dict(layers_to_transform="all"), "layers_to_transform='all'"),
        (dict(init_range=-0.1), "init_range=-0.1"),
        (dict(init_range=float("nan")), "init_range=nan"),
        (dict(mask_text_prompts="yes"), "mask_text_prompts='yes'"),
        (dict(rcond=-1e-3), "rcond=-0.001"),
        (dict(rcond=2), "rcond=2"),
        (dict(hidden_size=0), "hidden_size=0"),
        (dict(modules_to_save="head"), "modules_to_save='head'"),
        (dict(class_names=["cat", " "]), "class_names=.*non-empty names in the order of the labels"),
        (dict(task_type="FEATURE_EXTRACTION"), "task_type='FEATURE_EXTRACTION'"),
        (dict(inference_mode=1), "inference_mode=1"),
    ],
)
def test_a_wrong_value_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        SDPTConfig(**fields)


def test_a_value_that_was_changed_to_a_wrong_one_is_refused_before_the_model_is_touched():
    asked, detector = config(), build_detector()
    asked.rcond = "small"
    with pytest.raises(ValueError, match="rcond='small'"):
        get_peft_model(detector, asked)
    assert not hasattr(detector, "peft_config")


def test_the_sizes_of_the_model_are_filled_in():
    used = config()
    get_peft_model(build_detector(), used)
    assert (used.hidden_size, used.embed_dim, used.num_fusion_layers) == (64, 256, 2)
    assert used.layers() == [0, 1] and used.layers_to_transform is None


def test_a_used_config_survives_saving_copying_and_pickling(tmp_path):
    used = config(layers_to_transform=[1], rcond=1e-3, class_names=["red star", "été"])
    get_peft_model(build_detector(), used)
    used.save_pretrained(tmp_path)
    loaded = [SDPTConfig.from_pretrained(tmp_path), PeftConfig.from_pretrained(tmp_path)]
    for twin in (*loaded, copy.deepcopy(used), pickle.loads(pickle.dumps(used)), SDPTConfig(**used.to_dict())):
        assert type(twin) is SDPTConfig and twin == used
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["class_names"] == ["red star", "été"]
    assert written["peft_type"] == "SDPT" and written["peft_mudpt_version"] == peft_mudpt.__version__


def test_pefts_own_enum_stays_as_it_is():
    assert "SDPT" not in PeftType.__members__
