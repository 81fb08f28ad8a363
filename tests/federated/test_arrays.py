"""The numbers of an adapter as named arrays."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from peft import LoraConfig, get_peft_model

from peft_mudpt import MuDPTConfig
from peft_mudpt.federated.arrays import (
    adapter_arrays,
    from_record,
    load_adapter_arrays,
    mismatch,
    number_of_bytes,
    to_record,
)
from peft_mudpt.federated.domains import sent_arrays
from tests.conftest import another_clip, build_clip, build_inputs, logits


CONFIGS = {
    "mudpt": lambda: MuDPTConfig(init_std=0.5),
    "coop": lambda: MuDPTConfig.from_preset("coop", init_std=0.5),
    "fed_dpt": lambda: MuDPTConfig.from_preset("fed_dpt", init_std=0.5),
    "lora": lambda: LoraConfig(target_modules=["q_proj"], init_lora_weights=False),
}


@pytest.mark.parametrize("method", CONFIGS)
def test_another_model_computes_the_same_after_it_got_the_arrays_over_flower(method):
    torch.manual_seed(0)
    sender, receiver = (get_peft_model(make(), CONFIGS[method]()) for make in (build_clip, another_clip))
    before = logits(receiver, build_inputs())
    load_adapter_arrays(receiver, from_record(to_record(adapter_arrays(sender))))
    assert torch.equal(logits(receiver, build_inputs()), logits(sender, build_inputs()))
    assert not torch.equal(logits(receiver, build_inputs()), before)


def test_half_precision_is_sent_in_float32_and_arrives_in_half_precision():
    model = get_peft_model(build_clip().bfloat16(), MuDPTConfig(), autocast_adapter_dtype=False)
    before = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    arrays = adapter_arrays(model)
    assert {tensor.dtype for tensor in arrays.values()} == {torch.float32}
    load_adapter_arrays(model, arrays)
    after = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.dtype == torch.bfloat16 and torch.equal(p, before[name]) for name, p in after.items())


def test_the_arrays_are_copies():
    model = get_peft_model(build_clip(), MuDPTConfig(init_std=0.5))
    arrays = adapter_arrays(model)
    for tensor in arrays.values():
        tensor.zero_()
    assert not any(
        torch.equal(tensor, adapter_arrays(model)[name]) for name, tensor in arrays.items() if "prompts" in name
    )


GOOD = {"a": torch.zeros(2, 3), "b": torch.ones(4)}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (GOOD, None),
        ({"a": GOOD["a"]}, "b is missing"),
        ({}, "a and 1 more are missing"),
        ({**GOOD, "c": torch.ones(1)}, "c is not expected"),
        ({**GOOD, "a": torch.zeros(1, 3)}, "a has shape (1, 3), expected (2, 3)"),
        ({**GOOD, "b": torch.ones(4, dtype=torch.float64)}, "b has type torch.float64, expected torch.float32"),
        ({**GOOD, "b": torch.tensor([1, 2, float("nan"), 4])}, "b holds numbers that are NaN or infinite"),
        ({**GOOD, "a": torch.full((2, 3), float("inf"))}, "a holds numbers that are NaN or infinite"),
    ],
)
def test_the_first_mismatch_is_named(arrays, reason):
    assert mismatch(arrays, GOOD) == reason


def test_arrays_of_another_adapter_are_refused_and_change_nothing():
    model = get_peft_model(build_clip(), MuDPTConfig())
    before = adapter_arrays(model)
    with pytest.raises(ValueError, match="The arrays do not fit the adapter 'default': .* missing"):
        load_adapter_arrays(model, {name: tensor + 1 for name, tensor in list(before.items())[1:]})
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_arrays(model).items())


def test_an_adapter_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no adapter 'other'; its adapters are .'default'."):
        adapter_arrays(get_peft_model(build_clip(), MuDPTConfig()), "other")


def test_an_array_that_is_no_array_is_named():
    record = ArrayRecord({"a": Array("float32", (2,), "numpy.ndarray", b"no array")})
    with pytest.raises(ValueError, match="the array 'a' cannot be read"):
        from_record(record)


def test_a_client_of_fed_dpt_sends_its_context_and_the_visual_prompts():
    m, k, text, vision = 16, 4, 32, 48
    arrays = adapter_arrays(get_peft_model(build_clip(), MuDPTConfig.from_preset("fed_dpt")))
    sent = sent_arrays(arrays, domain=2)
    names = sum(len(name) for name in sent)
    assert number_of_bytes(sent) == 4 * (m * text + k * vision) + names
    assert number_of_bytes(arrays) == 4 * (k * m * text + k * vision) + sum(map(len, arrays))
    assert sum(array.numpy().nbytes for array in to_record(sent).values()) == 4 * (m * text + k * vision)
    assert {array.numpy().dtype for array in to_record(sent).values()} == {np.dtype("float32")}
