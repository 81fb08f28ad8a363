"""LoRA on these detectors: PEFT refuses it until the detector can say where its input embeddings are."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model

from peft_mudpt.detection import prepare_detector_for_peft
from peft_mudpt.sdpt.layer import sdpt_layer_of
from tests.sdpt.conftest import assert_equal, build_detector, config, outputs


FUSION = ["vision_proj", "text_proj", "values_vision_proj", "values_text_proj", "out_vision_proj", "out_text_proj"]

# PEFT warns of a second adapter of another method on a model, which is what some tests are about.
ANYWAY = pytest.mark.filterwarnings(
    "ignore:Already found a `peft_config`:UserWarning",
    "ignore:You are trying to modify a model with PEFT for a second time:UserWarning",
)


def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules=FUSION, init_lora_weights=False)


def family_of(detector) -> str:
    return detector.config.model_type.replace("-", "_")


def test_unprepared_peft_refuses_it(detector):
    with pytest.raises(NotImplementedError, match="get_input_embeddings"):
        get_peft_model(detector, lora())


def test_prepared_lora_trains_saves_loads_and_merges(detector, batch, tmp_path):
    model = get_peft_model(prepare_detector_for_peft(detector), lora())
    expected = outputs(model, batch)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(prepare_detector_for_peft(build_detector(family_of(detector))), tmp_path)
    assert_equal(outputs(loaded, batch), expected)
    merged = outputs(loaded.merge_and_unload(), batch)
    torch.testing.assert_close(merged["pred_boxes"], expected["pred_boxes"], rtol=0, atol=1e-5)


@ANYWAY
def test_lora_works_beside_sdpt(detector, batch):
    model = get_peft_model(prepare_detector_for_peft(detector), config())
    alone = outputs(model, batch)
    inject_adapter_in_model(lora(), model.get_base_model(), adapter_name="lora")
    both = outputs(model, batch)
    assert not torch.allclose(both["pred_boxes"], alone["pred_boxes"], atol=1e-6)
    with sdpt_layer_of(model).without_prompts():
        assert not torch.allclose(outputs(model, batch)["pred_boxes"], both["pred_boxes"], atol=1e-6)


@ANYWAY
def test_sdpt_on_a_detector_with_lora_inverts_the_weights_of_the_base(detector, batch):
    base = sdpt_layer_of(get_peft_model(build_detector(family_of(detector)), config())).sdpt_adapters["default"]
    inject_adapter_in_model(lora(), prepare_detector_for_peft(detector), adapter_name="lora")
    model = get_peft_model(detector, config(), adapter_name="prompts")
    own = sdpt_layer_of(model).sdpt_adapters["prompts"]
    assert torch.equal(own.vision_inverse.inverse, base.vision_inverse.inverse)
    assert outputs(model, batch)["pred_boxes"].isfinite().all()


def test_sdpt_needs_no_preparation(detector):
    assert get_peft_model(detector, config()).get_nb_trainable_parameters()[0] > 0
