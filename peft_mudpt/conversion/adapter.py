"""Makes an adapter of a checkpoint whose format is known: the config and the weights."""

from __future__ import annotations

from typing import Any

import torch

from ..config import MODALITIES, MuDPTConfig
from ..layer import LAYER_NAME, MuDPTLayer
from ..prompts.prompts import MultiModalPrompts
from .format import Depths, Format
from .matching import Match


INPUT_CONTEXT, CLASS_CONTEXTS = "text_prompts.0", "class_contexts.contexts"


def make_adapter(found: Match, fields: dict[str, Any]) -> tuple[MuDPTConfig, dict[str, torch.Tensor]]:
    """
    The adapter that a checkpoint stores.

    Args:
        found: a match that fits.
        fields: further fields of the config.

    Returns:
        The config, and the weights as `peft.set_peft_model_state_dict` takes them.

    Raises:
        ValueError: if shapes contradict each other or `fields`.
    """
    used = {name: ours for name, ours in found.names.items() if ours is not None}
    if found.format.may_be_class_specific:
        used = {
            name: CLASS_CONTEXTS if ours == INPUT_CONTEXT and found.learned[name].dim() == 3 else ours
            for name, ours in used.items()
        }
    shapes = {ours: found.learned[name].shape for name, ours in used.items()}
    config = _config(found.format, shapes, found.depths, fields)
    _check_shapes(config, {name: (ours, shapes[ours]) for name, ours in used.items()})
    weights = _stacked({ours: found.learned[name].float() for name, ours in used.items()})
    prefix = ".".join(["base_model.model", LAYER_NAME, *MuDPTLayer.adapter_layer_names])
    return config, {f"{prefix}.{name}": tensor for name, tensor in weights.items()}


def _config(form: Format, shapes: dict[str, torch.Size], depths: Depths, given: dict[str, Any]) -> MuDPTConfig:
    """The preset with a checkpoint's token numbers, depths and widths. `shapes` is keyed by this package's names."""
    prompts = {m: shapes[f"{m}_prompts.0"] for m in MODALITIES if f"{m}_prompts.0" in shapes}  # (n, d)
    if form.fused and "vision" not in prompts:  # generated from the text prompts: same number, width of the projection
        biases = ("text_to_vision.networks.layer_0.bias", "text_to_vision.networks.all_layers.output.bias")
        width = next(shapes[name][0] for name in biases if name in shapes)
        prompts["vision"] = torch.Size([prompts["text"][0], width])
        depths = {**depths, "vision": depths["text"]}
    fields: dict[str, Any] = {}
    if CLASS_CONTEXTS in shapes:
        per_class = shapes[CLASS_CONTEXTS]  # (C, n, d)
        fields |= {"class_specific_context": True, "num_classes": per_class[0]}
        prompts["text"] = per_class[1:]
    for modality, shape in prompts.items():
        if len(shape) != 2:
            raise ValueError(
                f"The input prompts have shape {tuple(shape)}, expected (tokens, width). Only method coop has "
                "class-specific contexts (CSC)."
            )
        tokens, width = shape
        if fields.setdefault("num_virtual_tokens", tokens) != tokens:
            fields[f"{modality}_num_virtual_tokens"] = tokens
        fields[f"{modality}_hidden_size"] = width
        fields[f"{modality}_prompt_depth"] = depths[modality]
    fields |= {f"{modality}_prompt_depth": 0 for modality in MODALITIES if modality not in prompts}
    fields |= next((_meta_net(shape) for name, shape in shapes.items() if name.endswith("linear1.weight")), {})
    return MuDPTConfig.from_preset(form.preset, **fields, **given)


def _meta_net(shape: torch.Size) -> dict[str, int]:
    """The fields of a config that follow from the first weight (hidden channels, channels of the features)."""
    if len(shape) != 2 or shape[0] > shape[1]:
        raise ValueError(
            f"The first layer of the meta-net has shape {tuple(shape)}, expected (hidden channels, channels of the "
            "features), no more of the first than of the second."
        )
    return {"feature_size": shape[1], "meta_net_reduction": shape[1] // shape[0]}


def _check_shapes(config: MuDPTConfig, found: dict[str, tuple[str, torch.Size]]) -> None:
    with torch.device("meta"):
        ours = {name: tensor.shape for name, tensor in MultiModalPrompts(config).state_dict().items()}
    wrong = []
    for published, (name, shape) in found.items():
        stack, _, layer = name.rpartition(".")
        expected = ours[name] if name in ours else ours[stack]  # a stack is (J, n, d)
        if stack in ours:
            expected = (expected[0] - 1, *expected[1:]) if layer == "deep" else expected[1:]
        if tuple(shape) != tuple(expected):
            wrong.append(f"{published} is {tuple(shape)}, expected {tuple(expected)}")
    if wrong:
        raise ValueError(f"The shapes in this checkpoint contradict each other: {'; '.join(wrong)}.")


def _stacked(renamed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Join the J layers of n prompts of width d per tower: (n, d), ... or (n, d), (J - 1, n, d) -> (J, n, d)."""
    weights = {}
    for name, tensor in renamed.items():
        stack, _, layer = name.rpartition(".")
        if stack not in ("text_prompts", "vision_prompts"):
            weights[name] = tensor
        else:  # `renamed` lists the layers in order
            tensor = tensor if layer == "deep" else tensor[None]
            weights[stack] = torch.cat([weights[stack], tensor]) if stack in weights else tensor
    return weights
