import subprocess
import sys

import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType

import peft_mudpt
from peft_mudpt._registration import register
from peft_mudpt.config import MuDPTType


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_twice_or_reloading_is_harmless():
    code = """
import importlib, sys, torch
import peft_mudpt
importlib.reload(peft_mudpt)
for name in [name for name in sys.modules if name.startswith("peft_mudpt")]:
    del sys.modules[name]
import peft_mudpt
from peft import get_peft_model
from transformers import CLIPModel
from peft_mudpt import demo
print(get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), peft_mudpt.MuDPTConfig()).base_model)
"""
    assert "mudpt.MuDPTLayer" in run(code)


def test_pefts_own_enum_stays_as_it_is():
    assert "MUDPT" not in PeftType.__members__


def test_a_stranger_under_the_same_name_is_not_overwritten(monkeypatch):
    class Stranger:
        pass

    monkeypatch.setitem(PEFT_TYPE_TO_CONFIG_MAPPING, MuDPTType.MUDPT, Stranger)
    with pytest.raises(ImportError, match="already registered by .*Stranger"):
        register()


def test_importing_needs_no_package_of_the_examples():
    code = """
import sys
import peft, transformers, transformers.models.clip.modeling_clip
before = set(sys.modules)
import peft_mudpt
print(sorted({name.split(".")[0] for name in set(sys.modules) - before} & {"datasets", "PIL", "matplotlib"}))
"""
    assert run(code).strip() == "[]"


def test_the_version_is_public():
    assert peft_mudpt.__version__
