import subprocess
import sys
from pathlib import Path

import pytest
from peft import get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType
from transformers import CLIPModel

import peft_mudpt
from peft_mudpt import MuDPTConfig, demo
from peft_mudpt._registration import register
from peft_mudpt.config import MuDPTType
from tests.conftest import refusal_by_transformers


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def imported():
    """What a new process prints that imports the package twice: the other packages that came with it, and a layer."""
    code = """
import importlib, sys
import peft, transformers, transformers.models.clip.modeling_clip
before = set(sys.modules)
import peft_mudpt
heavy = {"datasets", "gradio", "PIL", "matplotlib", "scipy", "pycocotools", "monai"}
print(sorted({name.split(".")[0] for name in set(sys.modules) - before} & heavy))
importlib.reload(peft_mudpt)
for name in [name for name in sys.modules if name.startswith("peft_mudpt")]:
    del sys.modules[name]
import peft_mudpt
from peft import get_peft_model
from transformers import CLIPModel
from peft_mudpt import demo
print(get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), peft_mudpt.MuDPTConfig()).base_model)
"""
    return run(code).splitlines()


@pytest.mark.slow
def test_importing_twice_or_reloading_is_harmless(imported):
    assert any("mudpt.MuDPTLayer" in line for line in imported)


def test_pefts_own_enum_stays_as_it_is():
    assert "MUDPT" not in PeftType.__members__


def test_a_stranger_under_the_same_name_is_not_overwritten(monkeypatch):
    class Stranger:
        pass

    monkeypatch.setitem(PEFT_TYPE_TO_CONFIG_MAPPING, MuDPTType.MUDPT, Stranger)
    with pytest.raises(ImportError, match="already registered by .*Stranger"):
        register()


@pytest.mark.slow
def test_importing_needs_no_package_of_the_examples(imported):
    assert imported[0] == "[]"


WAYS_TO_LOAD = [
    "PeftConfig.from_pretrained(folder)",
    "PeftModel.from_pretrained(clip, folder)",
    "AutoPeftModel.from_pretrained(folder)",
    "CLIPModel.from_pretrained(folder)",
    "clip.load_adapter(folder)",
]


@pytest.mark.slow
def test_without_the_import_every_way_to_load_ends_in_the_error_that_the_readme_quotes(tmp_path):
    get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), MuDPTConfig()).save_pretrained(tmp_path)
    # some versions of transformers refuse the installed PEFT before they look at the file
    ways = [way for way in WAYS_TO_LOAD if not (way.startswith("clip.") and refusal_by_transformers())]
    code = f"""
from peft import AutoPeftModel, PeftConfig, PeftModel
from transformers import CLIPModel
clip, folder = CLIPModel.from_pretrained({str(demo.MODEL_PATH)!r}), {str(tmp_path)!r}
for load in {ways}:
    try:
        eval(load)
    except KeyError as error:
        print("KeyError:", error)
"""
    assert run(code).splitlines() == ["KeyError: 'MUDPT'"] * len(ways)
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    assert "`KeyError: 'MUDPT'`, the line `import peft_mudpt` is missing" in readme


def test_the_saved_file_names_the_package_and_its_version(tmp_path):
    MuDPTConfig().save_pretrained(tmp_path)
    line = f'"peft_mudpt_version": "{peft_mudpt.__version__}"'
    assert line in (tmp_path / "adapter_config.json").read_text()


def test_the_version_is_public():
    assert peft_mudpt.__version__
