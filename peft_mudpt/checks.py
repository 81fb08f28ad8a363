"""What PEFT would let pass and silently get wrong: refused here, before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from .config import MODALITIES, MuDPTConfig
from .layer import LAYER_NAME, MuDPTLayer
from .prompts.prompts import MultiModalPrompts
from .towers.registry import find_towers, prompted_tower


# What belongs to one tower of a whole CLIP.
PARTS = {"text": ("text_model", "text_projection"), "vision": ("vision_model", "visual_projection")}
SAID = 5  # faults that an error names


def check_adapter_names(names: Iterable[str], model: nn.Module, adapters: Iterable[nn.Module]) -> None:
    """
    PEFT tells adapters apart by searching the state dict's keys for `.<name>.`, so no adapter may be called like any
    other part of a key: tensors would be missing from the saved file. It also saves into a folder of that name, and
    transformers loads by patterns that hold it.

    Args:
        names: of the MuDPT adapters on `model`, the new one included.
        model: the base model.
        adapters: the modules of these adapters.

    Raises:
        ValueError: if a name cannot be told from a part of the model, or cannot be saved and loaded under.
    """
    taken = {"base_model", "model", "modules_to_save", LAYER_NAME, *MuDPTLayer.adapter_layer_names}
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
    """The names of all modules below this one, without what adapters have put into them."""
    for name, child in module.named_children():
        yield name
        if not isinstance(child, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            yield from _own_segments(child)


def check_modules_to_save(config: MuDPTConfig, model: nn.Module, towers: dict[str, nn.Module]) -> None:
    """
    PEFT trains a copy of each of these modules. A copied hook would read a copy of the prompts, so that the real ones
    would never be trained; and what is no module (such as `logit_scale`) PEFT leaves out without a word.

    Args:
        config: of the new adapter.
        model: the base model.
        towers: its towers by modality.

    Raises:
        ValueError: if a name matches no module, one that prompts enter, one of the adapter itself, or one within
            another match.
    """
    hooked = {id(module) for tower in towers.values() for module in prompted_tower(tower).hooked_modules(tower)}
    with torch.device("meta"):
        own = [name for name, _ in MultiModalPrompts(config).named_modules() if name]
    # an adapter made on the whole CLIP may name modules that a single tower does not have
    made_elsewhere = any(
        getattr(config, f"{modality}_hidden_size") and modality not in towers for modality in MODALITIES
    )
    for wanted in config.modules_to_save or ():
        # PEFT's own rule for a match
        matches = [module for name, module in model.named_modules() if name and name.endswith(wanted)]
        if not matches and not made_elsewhere:
            raise ValueError(
                f"modules_to_save names {wanted!r}, but {type(model).__name__} has no such module (parameters cannot "
                "be named, only modules). Correct the name or leave it out."
            )
        if any(id(inner) in hooked for module in matches for inner in module.modules()):
            raise ValueError(
                f"modules_to_save names {wanted!r}, which holds a place where prompts enter the tower. Name modules "
                "beside or below it, such as 'visual_projection' or 'layers.1.mlp'."
            )
        if any(name.endswith(wanted) for name in own):
            raise ValueError(
                f"modules_to_save names {wanted!r}, which a part of the adapter itself is also called. Give more of "
                "the name, from the module above it on."
            )
    saved = [name for name, _ in model.named_modules() if name and name.endswith(tuple(config.modules_to_save or ()))]
    inner = next((name for name in saved if any(name.startswith(f"{outer}.") for outer in saved)), None)
    if inner is not None:
        raise ValueError(
            f"modules_to_save names {inner!r} and a module that holds it: PEFT could not load what it saved of them. "
            "Name one of the two."
        )


def check_weights(weights: dict[str, torch.Tensor], config: MuDPTConfig, adapter_name: str, model: nn.Module) -> None:
    """
    PEFT only warns of a tensor that is missing, whose place keeps random numbers, and writes to any place of the
    model whose name a file holds. The shapes of `modules_to_save` it checks itself, as `ignore_mismatched_sizes` asks.

    Args:
        weights: what is to be loaded, by the names of the model's state dict.
        config: of the adapter.
        adapter_name: its name.
        model: where it is; its weights there are still others.

    Raises:
        ValueError: if the weights are not all of the adapter's and nothing else, in its shapes, as finite numbers.
    """
    (container,) = MuDPTLayer.adapter_layer_names
    places = (f".{container}.{adapter_name}.", f".modules_to_save.{adapter_name}.")
    state = model.state_dict()
    expected = {key: tensor for key, tensor in state.items() if any(place in f".{key}" for place in places)}
    # an adapter made on the whole CLIP may bring modules of the tower that is not here
    elsewhere = {part for modality in MODALITIES if modality not in find_towers(model) for part in PARTS[modality]}
    faults = [f"{key} is missing" for key in expected.keys() - weights.keys()]
    for key, tensor in weights.items():
        own, place = places[0] in f".{key}", expected.get(key)
        if place is None:
            if not elsewhere & set(key.split(".")):
                faults.append(f"{key} is no part of it")
        elif own and tensor.shape != place.shape:
            faults.append(f"{key} has the shape {tuple(tensor.shape)}, expected {tuple(place.shape)}")
        elif tensor.is_floating_point() != place.is_floating_point():
            faults.append(f"{key} holds {tensor.dtype}, expected {place.dtype}")
        elif not tensor.to(place.dtype).isfinite().all() and (place.is_meta or place.isfinite().all()):
            faults.append(f"{key} holds NaN or infinity")
    if faults:
        more = f", and {len(faults) - SAID} more" if len(faults) > SAID else ""
        raise ValueError(
            "These weights are not those of the adapter that its config describes: "
            f"{'; '.join(sorted(faults)[:SAID])}{more}. Nothing of them was loaded. Take both files from one save of "
            "a trained adapter."
        )
