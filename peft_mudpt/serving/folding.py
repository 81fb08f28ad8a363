"""A trained adapter without the machinery of its training: fused prompts are the same for every image and text."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

import torch

from ..config import MODALITIES, MuDPTConfig
from ..layer import LAYER_NAME, MuDPTLayer
from ..prompts.prompts import MultiModalPrompts


@torch.inference_mode(False)  # the prompts outlive it
@torch.no_grad()
def fold_adapter(model: torch.nn.Module, adapter_name: Optional[str] = None) -> None:
    """
    Replace an adapter, in place, by one of the same type that holds its fused prompts and no fusion network.

    The model computes the same, with less work. The adapter is saved and loaded as before, in a file of
    `layers * n * (text width + vision width)` numbers (0.2 MB for MuDPT at ViT-B/16, where the trained adapter has
    44 MB), but it cannot be trained any more. What `modules_to_save` has trained stays as it is.

    Args:
        model: a [`~peft.PeftModel`], or a CLIP of transformers with adapters.
        adapter_name: the MuDPT adapter; None for the active one.

    Raises:
        ValueError: if there is no such MuDPT adapter.
    """
    layer: Optional[MuDPTLayer] = getattr(model, LAYER_NAME, None)
    adapters = {} if layer is None else layer.mudpt_adapters
    if adapter_name is None and layer is not None:
        adapter_name = layer.active_name
    if adapter_name not in adapters:
        asked = "active MuDPT adapter" if adapter_name is None else f"MuDPT adapter {adapter_name!r}"
        raise ValueError(f"The model has no {asked} to fold; its MuDPT adapters are {list(adapters)}.")
    trained = adapters[adapter_name]
    config = _folded(model.peft_config[adapter_name])
    folded = MultiModalPrompts(config)
    for modality in MODALITIES:
        layers = range(trained.depth[modality])
        if layers:
            # cut as the towers ask for them, so that the numbers are equal to the last bit
            parts = [trained(modality, part) for part in (layers[:1], layers[1:]) if part]
            setattr(folded, f"{modality}_prompts", torch.cat(parts))  # (layers, n, d)
    adapters[adapter_name] = folded
    model.peft_config[adapter_name] = config


def _folded(config: MuDPTConfig) -> MuDPTConfig:
    return replace(
        config,
        folded=True,
        inference_mode=True,
        fusion_direction="none",
        text_prompt_init_text=None,
        text_prompt_init_ids=None,
    )
