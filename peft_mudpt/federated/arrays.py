"""The parameters of an adapter as named arrays, which a server and its clients exchange, and their checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Optional

import torch
from flwr.app import Array, ArrayRecord
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict


Arrays = dict[str, torch.Tensor]
ITEM_BYTES = 4  # of float32


def adapter_arrays(model: PeftModel, adapter_name: str = "default") -> Arrays:
    """
    Copy the parameters of an adapter.

    Args:
        model: a model with an adapter, MuDPT's, LoRA's or any other of PEFT.
        adapter_name: the adapter.

    Returns:
        The tensors by name, as PEFT saves them, in float32 on the CPU: Flower sends no bfloat16.

    Raises:
        ValueError: if there is no such adapter, or it has no parameters.
    """
    if adapter_name not in model.peft_config:
        raise ValueError(f"The model has no adapter {adapter_name!r}; its adapters are {list(model.peft_config)}.")
    state = get_peft_model_state_dict(model, adapter_name=adapter_name)
    if not state:
        raise ValueError(f"The adapter {adapter_name!r} has no parameters that could be sent.")
    # each a tensor of its own: PEFT returns the model's
    return {name: tensor.detach().to("cpu", torch.float32, copy=True) for name, tensor in state.items()}


def load_adapter_arrays(model: PeftModel, arrays: Mapping[str, torch.Tensor], adapter_name: str = "default") -> None:
    """
    Set the parameters of an adapter, in the precision that it has.

    Args:
        model: a model with an adapter.
        arrays: what `adapter_arrays` returned for an adapter of the same config.
        adapter_name: the adapter.

    Raises:
        ValueError: if the names, the shapes or the types are others than those of `adapter_arrays`, or if a number is
            not finite. The adapter stays as it was.
    """
    reason = mismatch(arrays, adapter_arrays(model, adapter_name))
    if reason is not None:
        raise ValueError(f"The arrays do not fit the adapter {adapter_name!r}: {reason}.")
    set_peft_model_state_dict(model, dict(arrays), adapter_name=adapter_name)


def to_record(arrays: Mapping[str, torch.Tensor]) -> ArrayRecord:
    """The arrays in the form in which Flower sends them; half precision goes as float32."""
    plain = {name: tensor.detach().cpu() for name, tensor in arrays.items()}
    halves = (torch.bfloat16, torch.float16)
    return ArrayRecord({name: Array((t.float() if t.dtype in halves else t).numpy()) for name, t in plain.items()})


def from_record(record: ArrayRecord) -> Arrays:
    """
    The arrays that Flower has received.

    Raises:
        ValueError: if an array cannot be read.
    """
    arrays = {}
    for name, array in record.items():
        try:
            arrays[name] = torch.tensor(array.numpy())
        except Exception as error:  # whatever NumPy raises about bytes that it cannot read
            raise ValueError(f"the array {name!r} cannot be read ({type(error).__name__})") from error
    return arrays


def mismatch(arrays: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> Optional[str]:
    """
    Say why arrays cannot take the place of others.

    Args:
        arrays: the arrays.
        expected: arrays with the expected names, shapes and types.

    Returns:
        The first reason, which names an array; None if there is none.
    """
    missing, extra = expected.keys() - arrays.keys(), arrays.keys() - expected.keys()
    if missing:
        return f"{_some(missing)} missing"
    if extra:
        return f"{_some(extra)} not expected"
    for name, tensor in expected.items():
        found = arrays[name]
        if found.shape != tensor.shape:
            return f"{name} has shape {tuple(found.shape)}, expected {tuple(tensor.shape)}"
        if found.dtype != tensor.dtype:
            return f"{name} has type {found.dtype}, expected {tensor.dtype}"
        if not found.isfinite().all():
            return f"{name} holds numbers that are NaN or infinite"
    return None


def number_of_bytes(arrays: Mapping[str, torch.Tensor]) -> int:
    """The bytes of the numbers, as float32, and of the names of arrays. Headers of messages come on top of it."""
    return sum(ITEM_BYTES * tensor.numel() + len(name.encode()) for name, tensor in arrays.items())


def _some(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more are" if others else f"{first} is"
