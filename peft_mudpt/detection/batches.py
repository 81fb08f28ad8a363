"""Batches of pictures for a detector: of one size, or padded to the largest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad
from transformers import BaseImageProcessor

from ..classifier.pictures import pixel_values
from ..classifier.reading import opened


class Preprocessed(NamedTuple):
    """Pixel values (3, H, W) of a picture, and its width and height before they were made."""

    pixels: torch.Tensor
    size: tuple[int, int]


def preprocess(image_processor: BaseImageProcessor, picture: Any, position: int) -> Preprocessed:
    """Open and preprocess the picture at a position. Raise a ValueError that names it if it cannot be read."""
    image = opened(picture, position)
    return Preprocessed(pixel_values(image, image_processor), image.size)


def of_equal_size(pictures: Iterable[tuple[int, Preprocessed]], most: int) -> Iterator[list[tuple[int, Preprocessed]]]:
    """Batches of at most `most` pictures that follow each other and have pixel values of one shape."""
    for _, run in groupby(pictures, lambda numbered: numbered[1].pixels.shape):
        while batch := list(islice(run, most)):
            yield batch


def padded(pictures: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Make a batch of preprocessed pictures of several sizes.

    Args:
        pictures: B tensors (3, h, w).

    Returns:
        `pixel_values` (B, 3, H, W), with zeros on the right and at the bottom, and `pixel_mask` (B, H, W), 1 for the
        pixels of the pictures.
    """
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (1, 2))

    def fill(values: torch.Tensor) -> torch.Tensor:
        return pad(values, (0, width - values.shape[-1], 0, height - values.shape[-2]))

    masks = [torch.ones(picture.shape[1:], dtype=torch.long) for picture in pictures]
    return {"pixel_values": torch.stack(list(map(fill, pictures))), "pixel_mask": torch.stack(list(map(fill, masks)))}
