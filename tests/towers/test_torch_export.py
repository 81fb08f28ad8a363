"""Towers and whole models with prompts under torch.export, as servers and transformers' exporters call it."""

import pytest
import torch
from torch.export import Dim

from peft_mudpt.towers.registry import find_towers
from tests.conftest import of_two_layers
from tests.towers.test_families import FAMILIES, PAD, adapted, texts
from tests.towers.test_per_image import cocoop


pytestmark = pytest.mark.slow


def some_inputs(family, count, masked=False, length=None):
    """Texts of different lengths, and one image more than texts; `length`: cut off or padded to this length."""
    ids = texts(family, *([5 + i, 30 + i, *range(60, 60 + i)] for i in range(count)))
    if length is not None:
        ids = torch.nn.functional.pad(ids, (0, max(0, length - ids.shape[1])), value=PAD)[:, :length]
    mask = {"attention_mask": (ids != PAD).long()} if masked else {}
    images = torch.randn(count + 1, 3, 16, 16, generator=torch.Generator().manual_seed(count))
    return {"input_ids": ids, **mask, "pixel_values": images}


def exported(module, inputs):
    """The program for batches and texts of any size."""
    axes = {name: {0: Dim.DYNAMIC} for name in inputs}
    axes |= {name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in ("input_ids", "attention_mask") if name in inputs}
    return torch.export.export(module, (), inputs, dynamic_shapes=axes).module()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:attention_mask was ignored")  # by SigLIP, in the eager computation
@pytest.mark.parametrize(("family", "masked"), [("clip", False), *((family, True) for family in FAMILIES)])
def test_a_whole_model_takes_other_numbers_of_texts_and_images_and_other_lengths(family, masked):
    model = adapted(of_two_layers(FAMILIES[family]())).get_base_model()
    program = exported(model, some_inputs(family, 2, masked))
    _, tower, kind = find_towers(model)["text"]
    table = kind.num_positions(tower)  # at this length the prompts replace padding
    for count, length in ((1, None), (3, table), (5, None), (2, 10)):
        inputs = some_inputs(family, count, masked, length)
        expected = model(**inputs).logits_per_image
        torch.testing.assert_close(program(**inputs).logits_per_image, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_whole_model_whose_texts_depend_on_the_image_does_too():
    model = cocoop().get_base_model()
    program = exported(model, some_inputs("clip", 2))
    for count in (1, 3, 5):
        inputs = some_inputs("clip", count)
        expected = model(**inputs).logits_per_image
        torch.testing.assert_close(program(**inputs).logits_per_image, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_onnx_file_that_transformers_writes_of_a_text_tower_does_too():
    exporters = pytest.importorskip("transformers.exporters.exporter_onnx")
    tower = adapted(of_two_layers(FAMILIES["clip"]())).text_model

    def inputs(count, length=None):
        given = some_inputs("clip", count, masked=True, length=length)
        return {name: given[name] for name in ("input_ids", "attention_mask")}

    program = exporters.OnnxExporter().export(tower, inputs(2), config=exporters.OnnxConfig(dynamic=True))
    for given in (inputs(1), inputs(3, length=24)):
        expected = tower(**given).pooler_output
        torch.testing.assert_close(program(**given)["pooler_output"], expected, atol=1e-4, rtol=1e-4)
