"""Refuses base models, adapter names, `modules_to_save` and weights that PEFT would silently get wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn


FAULTS_NAMED = 5  # how many faults an error names


def check_wrappers(model: nn.Module) -> None:
    """
    Refuse a base model inside a wrapper that inserts a name of its own into the names of all tensors: an adapter that
    is saved under such names loads onto no plain model.

    Raises:
        ValueError: if the model, or a module in it, is compiled by `torch.compile` or in `DataParallel` or DDP.
    """
    for name, module in model.named_modules():
        is_compiled = hasattr(module, "_orig_mod")
        if is_compiled or isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            what = "compiled by torch.compile" if is_compiled else f"in {type(module).__name__}"
            place = f"{name!r} in the base model" if name else "The base model"
            raise ValueError(
                f"{place} is {what}, which renames all tensors, so that the adapter would load onto no plain model. "
                "Add the adapter to the plain model first, then compile or wrap the adapted model."
            )


def check_adapter_names(
    names: Iterable[str], model: nn.Module, adapters: Iterable[nn.Module], reserved: Iterable[str]
) -> None:
    """
    Refuse an adapter name that also occurs elsewhere in the keys of the state dict, such as the name of a module. PEFT
    finds an adapter's tensors by searching the keys for `.<name>.`, so tensors would be missing from the saved file.
    The name must also suit a folder, into which PEFT saves, and the patterns by which transformers loads.

    Args:
        names: names of the method's adapters on `model`, including the new one.
        model: the base model.
        adapters: the modules of these adapters.
        reserved: the names of the modules that hold the adapters.

    Raises:
        ValueError: if a name equals that of a part of the model, or cannot be the name of a file.
    """
    taken = {"base_model", "model", "modules_to_save", *reserved}
    taken |= set(_own_segments(model))
    taken |= {segment for adapter in adapters for key in adapter.state_dict() for segment in key.split(".")}
    for name in names:
        if not _fits_into_keys_and_files(name) or name in taken or hasattr(nn.ModuleDict(), name):
            raise ValueError(
                f"{name!r} cannot be the name of an adapter on this model: PEFT would mix it up with a part of the "
                "model, or could not save and load it. Choose another name: printable, of at most 255 bytes, and "
                "without any of . / \\ ( ) $."
            )


def _fits_into_keys_and_files(name) -> bool:
    if not isinstance(name, str) or not name.isprintable() or set(name) & set("./\\()$"):
        return False
    return 0 < len(name.encode()) <= 255


def _own_segments(module: nn.Module) -> Iterator[str]:
    """The names of all modules below `module`, each without its path, except the modules that adapters have added."""
    for name, child in module.named_children():
        yield name
        if not isinstance(child, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            yield from _own_segments(child)


def check_modules_to_save(
    names: Optional[Iterable[str]],
    model: nn.Module,
    hooked: Sequence[nn.Module],
    prompts: nn.Module,
    may_be_missing: bool = False,
) -> None:
    """
    Refuse `modules_to_save` that PEFT cannot train. PEFT trains a copy of each of these modules. In a copy of a module
    with a hook, the hook would read a copy of the prompts, so the adapter's own prompts would never be trained. PEFT
    ignores the name of a parameter (such as the logit scale) without a warning.

    Args:
        names: the names in `modules_to_save`; None for none.
        model: the base model.
        hooked: the modules that must stay in place so that the prompts reach the model.
        prompts: the new adapter.
        may_be_missing: whether a name may match no module, since the adapter was made on a larger model.

    Raises:
        ValueError: if a name matches no module, a module that prompts enter, a module of the adapter itself, or a
            module inside another match.
    """
    names = list(names or [])
    if not names:
        return
    example = next(name for name, child in hooked[-1].named_children() if child not in hooked)  # in a layer
    own = [name for name, _ in prompts.named_modules() if name]
    for wanted in names:
        # PEFT matches by the end of the name
        matches = [module for name, module in model.named_modules() if name and name.endswith(wanted)]
        if not matches and not may_be_missing:
            raise ValueError(
                f"modules_to_save names {wanted!r}, but {type(model).__name__} has no such module (parameters cannot "
                "be named, only modules). Correct the name or leave it out."
            )
        if any(inner in hooked for module in matches for inner in module.modules()):
            raise ValueError(
                f"modules_to_save names {wanted!r}, which contains a module where prompts enter the model, or from "
                "which they are computed. Name "
                f"modules beside it or inside it, such as {example!r}."
            )
        if any(name.endswith(wanted) for name in own):
            raise ValueError(
                f"modules_to_save names {wanted!r}, which is also the name of a part of the adapter itself. Give a "
                "longer name that begins at the parent module."
            )
    saved = [name for name, _ in model.named_modules() if name and name.endswith(tuple(names))]
    inner = next((name for name in saved if any(name.startswith(f"{outer}.") for outer in saved)), None)
    if inner is not None:
        raise ValueError(
            f"modules_to_save names {inner!r} and a module that contains it: PEFT could not load what it saved of "
            "them. Name one of the two."
        )


def check_sharing(names: Optional[Iterable[str]], model: nn.Module) -> None:
    """
    Refuse `modules_to_save` that PEFT cannot copy, or whose copy would no longer share weights with other modules.

    Args:
        names: the names in `modules_to_save`; None for none.
        model: the base model.

    Raises:
        ValueError: if a name matches a list of modules, or a module that shares a weight with one beside it.
    """
    parameters = list(model.named_parameters(remove_duplicate=False))
    for wanted in names or ():
        for name, module in model.named_modules(remove_duplicate=False):
            if not name.endswith(wanted):
                continue
            if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                raise ValueError(
                    f"modules_to_save names {wanted!r}, which is a {type(module).__name__} ({name!r}): PEFT cannot "
                    "train a copy of it. Name the modules in it."
                )
            own = set(module.parameters())
            others = [key for key, each in parameters if each in own and not key.startswith(f"{name}.")]
            if others:
                raise ValueError(
                    f"modules_to_save names {wanted!r}, but {name!r} shares its weights with {others[0]!r}, and PEFT "
                    "would train a copy that does not. Leave it out."
                )


def check_weights(
    weights: dict[str, torch.Tensor], adapter_name: str, model: nn.Module, container: str, elsewhere: Iterable[str]
) -> None:
    """
    Refuse weights that do not match the adapter's tensors exactly. PEFT only warns about missing tensors (they stay
    random), and loads any key that matches a model parameter. This function does not check the shapes of
    `modules_to_save`: PEFT does, according to `ignore_mismatched_sizes`.

    Args:
        weights: the tensors to be loaded, under the names of the model's state dict.
        adapter_name: the adapter's name.
        model: the model with the adapter, whose weights are not loaded yet.
        container: the name of the module that holds the method's adapters.
        elsewhere: paths of modules that weights may belong to although this base model lacks them.

    Raises:
        ValueError: if a tensor of the adapter is missing, or a given weight does not belong to the adapter, has
            another shape or kind of dtype (floating point or not), or holds NaN or infinity.
    """
    places = (f".{container}.{adapter_name}.", f".modules_to_save.{adapter_name}.")
    state = model.state_dict()
    expected = {key: tensor for key, tensor in state.items() if any(place in f".{key}" for place in places)}
    faults = [f"{key} is missing" for key in expected.keys() - weights.keys()]
    for key, tensor in weights.items():
        own, place = places[0] in f".{key}", expected.get(key)
        if place is None:
            if not any(f".{path}." in f".{key}" for path in elsewhere):
                faults.append(f"{key} is no part of it")
        elif own and tensor.shape != place.shape:
            faults.append(f"{key} has the shape {tuple(tensor.shape)}, expected {tuple(place.shape)}")
        elif tensor.is_floating_point() != place.is_floating_point():
            faults.append(f"{key} holds {tensor.dtype}, expected {place.dtype}")
        elif not tensor.to(place.dtype).isfinite().all() and (place.is_meta or place.isfinite().all()):
            faults.append(f"{key} holds NaN or infinity")
    if faults:
        more = f", and {len(faults) - FAULTS_NAMED} more" if len(faults) > FAULTS_NAMED else ""
        raise ValueError(
            "These weights are not those of the adapter that its config describes: "
            f"{'; '.join(sorted(faults)[:FAULTS_NAMED])}{more}. None of them was loaded. Take both files from one "
            "save of a trained adapter."
        )
