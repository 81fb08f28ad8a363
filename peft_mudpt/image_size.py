"""The size of the images that a CLIP takes, and how it takes images of another size than it was trained on."""

from __future__ import annotations

from typing import Optional

import torch
from torch import nn

from .config import MuDPTConfig
from .rules import AT_LEAST_ONE
from .towers.base import part
from .towers.registry import family_of


def image_size_of(model: nn.Module) -> Optional[int]:
    """Pixels of both sides of the images that a CLIP takes, plain or with adapters; None if it takes other shapes."""
    return family_of(model).vision.image_size(part(model, "config").vision_config)


def set_image_size(model: nn.Module, image_size: int) -> None:
    """
    Make a CLIP take images of another size, in place. It then computes what transformers computes with
    `interpolate_pos_encoding=True`, but interpolates its position embeddings only once, here. Prompts and adapters
    stay as they are: they do not depend on the size. The configs of MuDPT adapters record it, and
    [`MuDPTClassifier.from_pretrained`] sets it again.

    The time of an image grows with its number of patches. To set another size, load the CLIP again, so that the
    original embeddings are interpolated.

    Args:
        model: a CLIP, plain or with adapters.
        image_size: pixels of both sides, a multiple of the patch size.

    Raises:
        ValueError: if the size is no multiple of the patch size, the model takes images of any size (SigLIP 2
            NaFlex), or an adapter has wrapped its position embeddings.
    """
    AT_LEAST_ONE.check(image_size, "image_size")
    family, config = family_of(model), part(model, "config")
    family.image_shape(config)  # refuses NaFlex
    patch_size = config.vision_config.patch_size
    if image_size % patch_size:
        lower = image_size // patch_size * patch_size
        choices = " or ".join(str(size) for size in (lower, lower + patch_size) if size)
        raise ValueError(
            f"image_size={image_size} is no multiple of the patch size {patch_size}, so that the patches would not "
            f"cover the images. Give {choices}."
        )
    tower = family.vision_tower(model)
    with torch.no_grad():
        family.vision.resize(tower, image_size)
    part(tower, "config").image_size = config.vision_config.image_size = image_size
    for adapter in getattr(model, "peft_config", {}).values():
        if isinstance(adapter, MuDPTConfig):
            adapter.image_size = image_size
