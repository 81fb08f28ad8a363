"""Folds a trained adapter: keeps its prompts as constants, and drops what computed them."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional, cast

import torch

from ..config import MODALITIES, MuDPTConfig
from ..layer import find_adapter
from ..prompt_layer import PromptLayer, named_adapter
from ..prompts.prompts import MultiModalPrompts
from ..sdpt.config import SDPTConfig
from ..sdpt.layer import sdpt_layer_of
from ..sdpt.prototypes import DualPrompts, FusionPrompts
from ..settings import PromptConfig
from ..towers.base import part


@torch.inference_mode(False)  # so that the prompts are ordinary tensors
@torch.no_grad()
def fold_adapter(model: torch.nn.Module, adapter_name: Optional[str] = None) -> None:
    """
    Replace an adapter, in place, by one that holds its prompts as constants.

    The model's outputs stay the same, with less computation. The folded adapter is saved and loaded like any other,
    but can no longer be trained. Modules that were trained by `modules_to_save` stay as they are.

    A folded MuDPT adapter has no fusion network. With n prompt tokens per layer, its file has `layers * n * (text
    width + vision width)` numbers: 0.2 MB for MuDPT on ViT-B/16, instead of 44 MB. With `conditioning="class"` it also
    keeps the meta-net, as constants, because new class names need it.

    A folded SDPT adapter has no inverse projections. With K tokens per layer and streams of width d, its file has
    `layers * K * 2d` numbers, half as many as the prototypes of Grounding DINO. With `unified_prototypes=False`, it
    has the same numbers as before, as constants.

    Args:
        model: a [`~peft.PeftModel`], or a CLIP or detector of transformers with adapters.
        adapter_name: the MuDPT or SDPT adapter; None for the active one.

    Raises:
        ValueError: if there is no such adapter, or its text prompts depend on the image, or each class or domain has
            its own.
    """
    detector = sdpt_layer_of(model)
    if detector is not None:
        layer, adapter_name = named_adapter(detector, detector.method, adapter_name)
        _replace(model, layer, adapter_name, *_folded_prototypes(layer, adapter_name, model))
        return
    clip, adapter_name = find_adapter(
        model, adapter_name, "Export LoRA adapters and plain models to a .onnx or .pt2 file (export_classifier)."
    )
    _replace(model, clip, adapter_name, *_folded_prompts(clip, adapter_name, model))


def _replace(
    model: torch.nn.Module, layer: PromptLayer, adapter_name: str, folded: torch.nn.Module, config: PromptConfig
) -> None:
    layer.adapters[adapter_name] = folded
    part(model, "peft_config")[adapter_name] = config


def _folded_prototypes(
    layer: PromptLayer, adapter_name: str, model: torch.nn.Module
) -> tuple[DualPrompts, SDPTConfig]:
    """The prompts of an SDPT adapter as constants, and their config."""
    trained = cast(FusionPrompts, layer.adapters[adapter_name])
    config = replace(part(model, "peft_config")[adapter_name], folded=True, inference_mode=True)
    folded = DualPrompts(config)
    vision, text = zip(*map(trained, trained.layers))
    folded.vision_prompts = torch.stack(vision)  # (layers, K, d)
    folded.text_prompts = torch.stack(text) if trained.has_text_prompts else None
    return folded, config


def _folded_prompts(
    layer: PromptLayer, adapter_name: str, model: torch.nn.Module
) -> tuple[MultiModalPrompts, MuDPTConfig]:
    """The prompts of a MuDPT adapter as constants, and their config."""
    trained = cast(MultiModalPrompts, layer.adapters[adapter_name])
    if trained.text_depends_on_image:
        raise ValueError(
            f"The adapter {adapter_name!r} makes other text prompts for each image, so they cannot be folded into "
            "constants. Use it as it is."
        )
    if trained.contexts is not None:
        raise ValueError(
            f"The adapter {adapter_name!r} has text prompts of its own for each of {len(trained.contexts)} "
            f"{trained.contexts.of}, which are no smaller as constants. Use it as it is, or export the "
            "classifier (export_classifier)."
        )
    config = _folded(part(model, "peft_config")[adapter_name])
    folded = MultiModalPrompts(config)
    for modality in MODALITIES:
        layers = trained.layers[modality]
        if layers:
            # computed in the parts that the towers ask for, so that the numbers are equal to the last bit
            inputs = 1 if layers.start == 0 else 0
            parts = [trained(modality, part).squeeze(0) for part in (layers[:inputs], layers[inputs:]) if part]
            setattr(folded, f"{modality}_prompts", torch.cat(parts))  # (layers, n, d)
    for name in ("class_tokens", "logit_shift"):  # new class names get their tokens from the meta-net in the former
        kept = getattr(trained, name)
        if kept is not None:
            weights = {weight: tensor.clone() for weight, tensor in kept.state_dict().items()}
            getattr(folded, name).load_state_dict(weights, assign=True)
    return folded, config


def _folded(config: MuDPTConfig) -> MuDPTConfig:
    return replace(
        config,
        folded=True,
        inference_mode=True,
        fusion_direction="none",
        text_prompt_init_text=None,
        text_prompt_init_ids=None,
    )
