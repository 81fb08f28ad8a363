"""Folds a trained adapter: keeps the fused prompts as constants, and drops the network that computed them."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional, cast

import torch

from ..config import MODALITIES, MuDPTConfig
from ..layer import find_adapter
from ..prompts.prompts import MultiModalPrompts
from ..towers.base import part


@torch.inference_mode(False)  # so that the prompts are ordinary tensors
@torch.no_grad()
def fold_adapter(model: torch.nn.Module, adapter_name: Optional[str] = None) -> None:
    """
    Replace a MuDPT adapter, in place, by one that holds the fused prompts as constants and has no fusion network.

    The model's outputs stay the same, with less computation. The folded adapter is saved and loaded like any other,
    but can no longer be trained. With n prompt tokens per layer, its file has `layers * n * (text width + vision
    width)` numbers: 0.2 MB for MuDPT on ViT-B/16, instead of 44 MB. With `conditioning="class"` it also keeps the
    meta-net, as constants, because new class names need it. Modules that were trained by `modules_to_save` stay as
    they are.

    Args:
        model: a [`~peft.PeftModel`], or a CLIP of transformers with adapters.
        adapter_name: the MuDPT adapter; None for the active one.

    Raises:
        ValueError: if there is no such MuDPT adapter, or its text prompts depend on the image.
    """
    layer, adapter_name = find_adapter(
        model, adapter_name, "Export LoRA adapters and plain models to a .onnx or .pt2 file (export_classifier)."
    )
    trained = cast(MultiModalPrompts, layer.mudpt_adapters[adapter_name])
    if trained.text_depends_on_image:
        raise ValueError(
            f"The adapter {adapter_name!r} makes other text prompts for each image, so they cannot be folded into "
            "constants. Use it as it is."
        )
    if trained.class_contexts is not None:
        raise ValueError(
            f"The adapter {adapter_name!r} has text prompts of its own for each class, which are no smaller as "
            "constants. Use it as it is, or export the classifier (export_classifier)."
        )
    configs: dict[str, MuDPTConfig] = part(model, "peft_config")
    config = _folded(configs[adapter_name])
    folded = MultiModalPrompts(config)
    for modality in MODALITIES:
        layers = trained.layers[modality]
        if layers:
            # computed in the parts that the towers ask for, so that the numbers are equal to the last bit
            inputs = 1 if layers.start == 0 else 0
            parts = [trained(modality, part).squeeze(0) for part in (layers[:inputs], layers[inputs:]) if part]
            setattr(folded, f"{modality}_prompts", torch.cat(parts))  # (layers, n, d)
    if trained.class_tokens is not None:  # new class names get their tokens from it
        weights = trained.class_tokens.state_dict()
        folded.class_tokens.load_state_dict({name: t.clone() for name, t in weights.items()}, assign=True)
    layer.mudpt_adapters[adapter_name] = folded
    configs[adapter_name] = config


def _folded(config: MuDPTConfig) -> MuDPTConfig:
    return replace(
        config,
        folded=True,
        inference_mode=True,
        fusion_direction="none",
        text_prompt_init_text=None,
        text_prompt_init_ids=None,
    )
