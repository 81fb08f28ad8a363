"""Turns the examples of a data set into batches of pixels or features, for training and for testing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import torch
from transformers import BaseImageProcessor

from ...classifier.pictures import open_picture, pixel_values


if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

CROP_AREA = (0.08, 1.0)  # share of the picture's area
CROP_RATIO = (3 / 4, 4 / 3)  # width over height
CROP_ATTEMPTS = 10

# What may be in a batch of B pictures, beside `labels` (B,). A batch has the pixel values or the image features.
PIXEL_VALUES, IMAGE_FEATURES = "pixel_values", "image_features"  # (B, 3, H, W), and (B, D) with L2 norm 1
FROZEN_IMAGE_FEATURES = "frozen_image_features"  # (B, D) with L2 norm 1: those of CLIP without its adapter
CLEAN_IMAGE_FEATURES = "clean_image_features"  # (B, D) with L2 norm 1, if `image_features` are of attacked pictures
# Where a picture comes from: its position in its split, and in training the index of the sample and its epoch, counted
# from 0. The start of an attack depends on it.
PICTURE, INDEX, EPOCH = "picture", "index", "epoch"
# Features (N, D), or pixel values, of the N pictures of a split, by their name in a batch.
Known = Mapping[str, torch.Tensor]


def images_of(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Select the arguments of a classifier from a batch.

    Args:
        batch: a batch of `TestPictures` or `TrainingPictures`.

    Returns:
        The pixel values (B, 3, H, W), or the image features (B, D) if they are known.
    """
    return {name: batch[name] for name in (PIXEL_VALUES, IMAGE_FEATURES) if name in batch}


def random_resized_crop(image: Image, size: int, rng: np.random.Generator) -> Image:
    """
    Crop a picture at random, as CoOp augments training pictures: the crop has a random area and aspect ratio (Szegedy
    et al., arXiv 1409.4842, section 6), is resized to a square by bicubic interpolation, and is flipped with
    probability 1/2.

    Args:
        image: the picture, of any size.
        size: side of the square, in pixels.
        rng: random numbers.

    Returns:
        A picture of `size` x `size` pixels.
    """
    from PIL import Image as images
    from PIL import ImageOps

    box = _random_box(*image.size, rng)
    crop = image.crop(box).resize((size, size), images.Resampling.BICUBIC)
    return ImageOps.mirror(crop) if rng.random() < 0.5 else crop


def _random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop, in pixels."""
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = math.exp(rng.uniform(*np.log(CROP_RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return int(left), int(top), int(left) + w, int(top) + h
    # every attempt was too wide or too high for this picture: take the largest allowed crop at its center
    w, h = min(width, round(height * CROP_RATIO[1])), min(height, round(width / CROP_RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def picture(example: dict) -> Image:
    """
    Open the picture of an example (see `open_picture`).

    Args:
        example: an example of a split of `FewShotData`.

    Returns:
        The picture, in RGB.

    Raises:
        ValueError: if the picture cannot be read. The message names its file, or its item if it is no file.
    """
    image = example["image"]
    return open_picture(image, example["item"] if image["bytes"] is not None else image["path"])


def check_pictures(pictures: Dataset, *others: Dataset) -> None:
    """
    Open every picture of a split once.

    Args:
        pictures: a split of `FewShotData`.
        others: further splits. They are opened only if a picture of `pictures` cannot be read.

    Raises:
        ValueError: if pictures cannot be read. The message lists all of them.
    """
    if not (errors := _errors(pictures)):
        return
    splits = (pictures, *others)
    errors += [error for split in others for error in _errors(split)]
    raise ValueError("\n".join([f"{len(errors)} of {sum(map(len, splits))} pictures cannot be used:", *errors]))


def _errors(pictures: Dataset) -> list[str]:
    errors = []
    for example in pictures:
        try:
            picture(example)
        except ValueError as error:
            errors.append(str(error))
    return errors


class TestPictures(torch.utils.data.Dataset):
    """
    Each picture of a split, once, in the order of the split. A sample is a dict of `pixel_values` (3, H, W), `labels`
    and `picture`, its position, so that a batch takes little memory even if the pictures are large.

    Args:
        pictures: a split of `FewShotData`.
        image_processor: the image processor of the CLIP.
        known: features that each sample holds; with `image_features`, no picture is opened, and there are no pixels.
            It may hold the `pixel_values` themselves, if the pictures are few.
    """

    __test__ = False  # pytest would collect the class because of its name

    def __init__(self, pictures: Dataset, image_processor: BaseImageProcessor, known: Optional[Known] = None):
        self.pictures = pictures
        self.image_processor = image_processor
        self.known = known or {}

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example, sample = self.pictures[index], {name: rows[index] for name, rows in self.known.items()}
        if IMAGE_FEATURES not in sample and PIXEL_VALUES not in sample:
            sample[PIXEL_VALUES] = pixel_values(picture(example), self.image_processor)
        return {**sample, "labels": example["label"], PICTURE: index}


def place_of(index: int, number_of_pictures: int, seed: int) -> tuple[int, int, int]:
    """
    Find the picture of a sample of a training run, which consists of epochs over the pictures, each in another random
    order.

    Args:
        index: index of the sample.
        number_of_pictures: number of training pictures.
        seed: seed of the orders.

    Returns:
        The epoch and the position in it, counted from 0, and the position of the picture in its split.
    """
    epoch, position = divmod(index, number_of_pictures)
    order = np.random.default_rng([seed, epoch]).permutation(number_of_pictures)
    return epoch, position, int(order[position])


class TrainingPictures(torch.utils.data.Dataset):
    """
    All samples of a training run, as one fixed sequence: epochs over the training pictures, each in another random
    order and with other random augmentations.

    A sample depends on the seed and its index only. It therefore does not matter which process reads it, or whether
    training was interrupted before. Beside what `TestPictures` has, it holds its `index`, its `epoch` and the position
    of the `picture` in the split.

    Args:
        pictures: the training pictures that were drawn for the run.
        length: number of samples in the run.
        seed: seed of the orders and the augmentations.
        crop_size: side of the random crops, in pixels; None: no augmentation.
        image_processor: the image processor of the CLIP. It leaves the size of the random crops as it is.
        known: features that each sample holds (see `TestPictures`); only without augmentation, which changes them.
    """

    def __init__(
        self,
        pictures: Dataset,
        length: int,
        seed: int,
        crop_size: int | None,
        image_processor: BaseImageProcessor,
        known: Optional[Known] = None,
    ):
        self.pictures = pictures
        self.length = length
        self.seed = seed
        self.crop_size = crop_size
        self.image_processor = image_processor
        self.unchanged = TestPictures(pictures, image_processor, known)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, position, number = place_of(index, len(self.pictures), self.seed)
        place = {PICTURE: number, INDEX: index, EPOCH: epoch}
        if self.crop_size is None:
            return {**self.unchanged[number], **place}
        example = self.pictures[number]
        crop = random_resized_crop(
            picture(example), self.crop_size, np.random.default_rng([self.seed, epoch, position])
        )
        pixels = pixel_values(crop, self.image_processor, do_resize=False, do_center_crop=False)
        return {PIXEL_VALUES: pixels, "labels": example["label"], **place}
