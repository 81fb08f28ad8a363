"""Rows of pictures -> batches of pixels, for training and for testing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import BaseImageProcessor


if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

CROP_AREA = (0.08, 1.0)  # share of the picture's area
CROP_RATIO = (3 / 4, 4 / 3)  # width over height
CROP_ATTEMPTS = 10


def random_resized_crop(image: Image, size: int, rng: np.random.Generator) -> Image:
    """
    A part of the picture of random area and proportions (Szegedy et al., arXiv 1409.4842, section 6), resized to a
    square by bicubic interpolation and flipped half of the time: CoOp's training augmentation.

    Args:
        image: the picture, of any size.
        size: side of the square, in pixels.
        rng: where chance comes from.
    """
    from PIL import Image as images
    from PIL import ImageOps

    box = _random_box(*image.size, rng)
    crop = image.crop(box).resize((size, size), images.Resampling.BICUBIC)
    return ImageOps.mirror(crop) if rng.random() < 0.5 else crop


def _random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a part that lies within the picture."""
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = math.exp(rng.uniform(*np.log(CROP_RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return int(left), int(top), int(left) + w, int(top) + h
    # a picture too long for every attempt: its middle, as long as the proportions allow
    w, h = min(width, round(height * CROP_RATIO[1])), min(height, round(width / CROP_RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def picture(row: dict) -> Image:
    """
    The picture of a row, in RGB.

    Raises:
        ValueError: if it cannot be read.
    """
    from datasets import Image

    try:
        return Image().decode_example(row["image"]).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's errors for what is no picture, or half of one
        raise ValueError(f"{row['item']} cannot be read as a picture: {error}. Replace or remove it.") from error


class TestPictures(torch.utils.data.Dataset):
    """Every picture once, in order."""

    __test__ = False  # pytest takes the name for a test

    def __init__(self, pictures: Dataset):
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        row = self.pictures[index]
        return picture(row), row["label"]


class TrainingPictures(torch.utils.data.Dataset):
    """
    All the pictures of a training run, as one fixed sequence: pass after pass over the drawn pictures, each pass in
    an order of its own, each picture with an augmentation of its own.

    What stands at an index depends on the seed and the index alone. So it does not matter which process reads it, nor
    whether training was interrupted before.

    Args:
        pictures: the drawn pictures.
        length: how many the run sees.
        seed: decides orders and augmentations.
        crop_size: side of the augmented pictures, in pixels; None leaves them as they are.
    """

    def __init__(self, pictures: Dataset, length: int, seed: int, crop_size: int | None):
        self.pictures = pictures
        self.length = length
        self.seed = seed
        self.crop_size = crop_size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Image, int]:
        turn, place = divmod(index, len(self.pictures))
        order = np.random.default_rng([self.seed, turn]).permutation(len(self.pictures))
        row = self.pictures[int(order[place])]
        image = picture(row)
        if self.crop_size is not None:
            image = random_resized_crop(image, self.crop_size, np.random.default_rng([self.seed, turn, place]))
        return image, row["label"]


class PixelCollator:
    """
    Pictures and labels -> `pixel_values` (B, 3, H, W) and `labels` (B,).

    Args:
        image_processor: the CLIP's own.
        ready: the pictures have the size they shall have; only normalise them.
    """

    def __init__(self, image_processor: BaseImageProcessor, ready: bool = False):
        self.image_processor = image_processor
        self.options = {"do_resize": False, "do_center_crop": False} if ready else {}

    def __call__(self, rows: list[tuple[Image, int]]) -> dict[str, torch.Tensor]:
        images, labels = zip(*rows)
        pixel_values = self.image_processor(list(images), return_tensors="pt", **self.options).pixel_values
        return {"pixel_values": pixel_values, "labels": torch.tensor(labels)}
