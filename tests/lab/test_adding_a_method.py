"""A new method is one entry in one file: docs/write_a_preset.md."""

import json
from pathlib import Path

import pytest
from peft import LoraConfig, PeftConfig

from peft_mudpt import PRESETS, MuDPTConfig
from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.method import Method
from peft_mudpt.lab.methods import METHODS, all_methods, find_method
from peft_mudpt.lab.report.drawing import label_of
from peft_mudpt.lab.report.plots import plot_all
from peft_mudpt.lab.report.tables import markdown_report
from peft_mudpt.lab.run import run
from peft_mudpt.lab.schema import read_results
from tests.lab.test_experiment import save_pictures


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture
def preset(monkeypatch):
    """Add a preset, as a contributor would in `peft_mudpt/presets.py`."""
    monkeypatch.setitem(PRESETS, "short_prompts", dict(num_virtual_tokens=2, prompt_depth=1, fusion_type="linear"))
    return "short_prompts"


@pytest.fixture
def variant(monkeypatch):
    """Add a variant of LoRA, as a contributor would in `METHODS` in `peft_mudpt/lab/methods.py`."""
    record = Method(
        "lora_of_values",
        "LoRA on the values alone",
        "2106.09685",
        adapter=LoraConfig,
        fields={"r": 1, "target_modules": ["v_proj"]},
        optimizer="adamw",
        learning_rate=2e-4,
    )
    monkeypatch.setitem(METHODS, record.name, record)
    return record.name


@pytest.mark.parametrize("kind", ["preset", "variant"])
def test_a_new_method_is_trained_and_appears_in_cards_tables_and_plots(kind, request, tmp_path):
    name = request.getfixturevalue(kind)
    train, test = save_pictures(tmp_path / "train", 3), save_pictures(tmp_path / "test", 2, seed=4)
    pictures = {"train_dir": train, "test_dir": test}
    for method in (name, "zero_shot"):
        folder = tmp_path / "lab" / method
        run(Arguments(**pictures, method=method, shots=2, max_train_steps=2, output_dir=str(folder)))
    folder = tmp_path / "lab" / name
    assert json.loads((folder / "result.json").read_text())["method"] == name
    assert PeftConfig.from_pretrained(folder).peft_type == find_method(name).adapter().peft_type
    card = (folder / "README.md").read_text()
    assert f"(`{name}`" in card and find_method(name).title in card and str(tmp_path) not in card
    results = read_results(tmp_path / "lab")
    assert f"\n| {name} | " in markdown_report(results, pictures={})
    figure = plot_all(results)["accuracy_by_shots.png"]
    assert label_of(name) in [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_a_preset_without_a_record_is_a_method_with_the_same_name(preset):
    method = find_method(preset)
    assert (method.title, method.adapter, method.fields) == (preset, MuDPTConfig, PRESETS[preset])
    assert list(all_methods())[-1] == preset


def test_only_the_records_compare_names_of_methods():
    lab = Path(run.__globals__["__file__"]).parent
    texts = {path: path.read_text(encoding="utf-8") for path in lab.rglob("*.py")}
    allowed = {lab / "methods.py", lab / "report" / "published.py"}
    for name in METHODS:
        others = [path for path, text in texts.items() if path not in allowed and f'== "{name}"' in text]
        assert others == []
