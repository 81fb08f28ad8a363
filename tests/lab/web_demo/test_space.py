"""The folder of a Hugging Face Space."""

import json
import runpy
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from transformers import CLIPModel

from peft_mudpt import MuDPTClassifier, demo
from tests.lab.web_demo.conftest import CLASSES


gradio = pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")


@pytest.fixture
def started(monkeypatch):
    """The demos whose pages a program would show."""
    from peft_mudpt.lab.web_demo import page

    demos = []
    monkeypatch.setattr(page, "launch", demos.append)
    return demos


def title_of(space):
    """The title in the description of a Space."""
    _, settings, _ = (Path(space) / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(settings)["title"]


def write(*arguments):
    from peft_mudpt.lab.web_demo.space import write_space

    return write_space(*arguments)


def test_the_program_of_a_space_answers_as_the_adapter_wherever_it_lies(adapter, star, started, tmp_path):
    space = write(tmp_path / "space", adapter)
    moved = shutil.move(space, tmp_path / "elsewhere")
    runpy.run_path(f"{moved}/app.py", run_name="__main__")
    (shown,) = started
    assert shown.about.title == f"{adapter.name}: what is in the picture?" == title_of(moved)
    expected = MuDPTClassifier.from_pretrained(adapter).top_k([star], 3)[0]
    assert list(shown.answer(star).probabilities.items()) == expected


def test_a_space_holds_no_path_of_this_machine(adapter, tmp_path):
    space = write(tmp_path / "space", adapter)
    assert sorted(file.relative_to(space).as_posix() for file in space.rglob("*") if file.is_file()) == [
        "README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "app.py",
        "requirements.txt",
    ]
    texts = [file.read_text() for file in space.rglob("*") if file.suffix != ".safetensors" and file.is_file()]
    assert not any(path in text for text in texts for path in (demo.MODEL_PATH, str(tmp_path), str(adapter)))
    assert json.loads((space / "adapter" / "adapter_config.json").read_text())["class_names"] == CLASSES


def test_the_readme_begins_with_the_settings_of_a_space(adapter, tmp_path):
    _, settings, _ = (write(tmp_path / "space", adapter) / "README.md").read_text(encoding="utf-8").split("---\n")
    found = yaml.safe_load(settings)
    assert found["sdk"] == "gradio" and found["sdk_version"] == gradio.__version__ and found["app_file"] == "app.py"


def test_the_requirements_pin_the_package(adapter, tmp_path):
    lines = (write(tmp_path / "space", adapter) / "requirements.txt").read_text().splitlines()
    assert lines == [f"peft_mudpt[demo]=={version('peft_mudpt')}"]


def test_the_classes_beside_a_lora_adapter_are_copied(started, star, tmp_path):
    lora = get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), LoraConfig(target_modules=["q_proj"]))
    MuDPTClassifier(lora, CLASSES, "a {}.").save_pretrained(tmp_path / "lora")
    runpy.run_path(str(write(tmp_path / "space", tmp_path / "lora") / "app.py"), run_name="__main__")
    (shown,) = started
    assert shown.class_names == CLASSES


def test_given_classes_are_those_of_the_space_whatever_they_hold(adapter, started, tmp_path):
    names = ['a "quoted" name\'); raise SystemExit(1) #', "back\\slash"]
    runpy.run_path(str(write(tmp_path / "space", adapter, names, "a {}.") / "app.py"), run_name="__main__")
    (shown,) = started
    assert shown.class_names == names


def test_a_folder_with_files_is_refused_and_stays(adapter, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="empty"):
        write(tmp_path, adapter)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_clip_of_this_machine_is_refused_and_nothing_is_written(adapter, tmp_path):
    shutil.copytree(demo.MODEL_PATH, tmp_path / "clip")
    with pytest.raises(ValueError, match="Upload it"):
        write(tmp_path / "space", adapter, None, None, str(tmp_path / "clip"))
    assert [file.name for file in tmp_path.iterdir()] == ["clip"]


def test_nothing_is_left_if_the_disk_is_full(adapter, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fail)
    (tmp_path / "space").mkdir()
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "space", adapter)
    assert [*tmp_path.iterdir()] == [tmp_path / "space"] and not [*(tmp_path / "space").iterdir()]
