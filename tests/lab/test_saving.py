"""What is saved of a trained model."""

from pathlib import Path

import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import CLIPModel

from peft_mudpt import MuDPTConfig, demo
from peft_mudpt.lab.report.card import model_card
from peft_mudpt.lab.saving import save_folded
from peft_mudpt.lab.schema import write_result
from peft_mudpt.lab.storage import naming
from tests.lab.report.made_results import result


def saved(folder: Path, config) -> PeftModel:
    """An adapter of the embedded CLIP, saved as by its user, with the generic card of PEFT."""
    model = get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), config)
    model.save_pretrained(folder)
    return model


def small_config() -> MuDPTConfig:
    return MuDPTConfig(num_virtual_tokens=2, prompt_depth=2, class_names=["cat", "dog"], class_template="{}.")


def test_a_folded_adapter_keeps_the_card_and_the_result_of_its_run(tmp_path):
    model = saved(tmp_path / "run", small_config())
    write_result(tmp_path / "run", result(accuracy=87.6))
    model_card(result(accuracy=87.6), demo.MODEL_PATH, None).save(tmp_path / "run" / "README.md")
    size = save_folded(model, tmp_path / "run", tmp_path / "folded")
    assert size == (tmp_path / "folded" / "adapter_model.safetensors").stat().st_size
    for name in ("README.md", "result.json"):
        assert (tmp_path / "folded" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    card = (tmp_path / "folded" / "README.md").read_text(encoding="utf-8")
    assert "87.6 %" in card and "`cat`, `dog`" in card and demo.MODEL_PATH not in card


def test_the_generic_card_of_peft_which_discloses_a_path_is_not_kept(tmp_path):
    model = saved(tmp_path / "mine", small_config())
    save_folded(model, tmp_path / "mine", tmp_path / "folded")
    found = {file.name for file in (tmp_path / "folded").iterdir()}
    assert found == {"adapter_config.json", "adapter_model.safetensors"}


def test_an_adapter_that_cannot_be_folded_leaves_no_file(tmp_path):
    model = saved(tmp_path / "lora", LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="no active MuDPT adapter"):
        save_folded(model, tmp_path / "lora", tmp_path / "folded")
    assert not (tmp_path / "folded").exists()


def test_an_adapter_below_a_head_is_not_folded_because_the_head_would_be_lost(tmp_path):
    model = saved(tmp_path / "run", MuDPTConfig.from_preset("vpt_deep"))
    (tmp_path / "run" / "linear_probe.safetensors").touch()
    with pytest.raises(ValueError, match="linear probe.*onnx"):
        save_folded(model, tmp_path / "run", tmp_path / "folded")
    assert not (tmp_path / "folded").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("write failed"), SafetensorError("I/O")])
def test_a_failure_to_write_names_what_is_written(tmp_path, error):
    with pytest.raises(OSError, match=f"{tmp_path} cannot be written: .*{error.args[-1]}"), naming(tmp_path):
        raise error
