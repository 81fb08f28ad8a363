"""Draws where a CLIP looks."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image


SIZE = 512  # pixels of the longer side; CLIP sees fewer, which would be small on a page
DIMMED = 0.2  # brightness of the parts with the smallest share


def spotlight(pixels: torch.Tensor, shares: torch.Tensor) -> Image.Image:
    """
    Draw a picture that is bright where a model looks, and dim elsewhere.

    Args:
        pixels: the pixels (3, H, W) in [0, 1] that the model sees.
        shares: the shares (h, w) of its patches. They are scaled, so that the smallest is dim and the largest bright.

    Returns:
        The picture.
    """
    picture = np.asarray(enlarged(pixels), dtype=np.float32)  # (H', W', 3)
    shares = shares - shares.min()
    shares = shares / shares.max().clamp(min=torch.finfo(shares.dtype).tiny)
    height, width = picture.shape[:2]
    light = Image.fromarray(shares.numpy().astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    brightness = DIMMED + (1 - DIMMED) * np.asarray(light).clip(0, 1)
    return Image.fromarray((picture * brightness[..., None]).round().astype(np.uint8))


def enlarged(pixels: torch.Tensor) -> Image.Image:
    """
    Turn pixels (3, H, W) in [0, 1] into a picture that is large enough for a page.

    Args:
        pixels: the pixels.

    Returns:
        The picture.
    """
    picture = Image.fromarray((255 * pixels.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy())
    factor = max(1.0, SIZE / max(picture.size))
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BICUBIC)
