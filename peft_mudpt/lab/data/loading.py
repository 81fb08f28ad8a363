"""Turns the examples of a data set into batches of pixels or features, for training and for testing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import numpy as np
import torch
from transformers import BaseImageProcessor

from ...classifier.pictures import pixel_values
from .memory import MEMORY, picture


if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

CROP_AREA = (0.08, 1.0)  # share of the picture's area
CROP_RATIO = (3 / 4, 4 / 3)  # width over height
CROP_ATTEMPTS = 10
CROP_RULE = f"{CROP_AREA} of the area, {CROP_RATIO} wide, {CROP_ATTEMPTS} attempts, bicubic, half of them flipped"

# What may be in a batch of B pictures, beside `labels` (B,). A batch has the pixel values or the image features.
PIXEL_VALUES, IMAGE_FEATURES = "pixel_values", "image_features"  # (B, 3, H, W), and (B, D) with L2 norm 1
FROZEN_IMAGE_FEATURES = "frozen_image_features"  # (B, D) with L2 norm 1: those of CLIP without its adapter
CLEAN_IMAGE_FEATURES = "clean_image_features"  # (B, D) with L2 norm 1, if `image_features` are of attacked pictures
# Where a picture comes from: its position in its split, and in training the index of the sample and its epoch, counted
# from 0. The start of an attack depends on it.
PICTURE, INDEX, EPOCH = "picture", "index", "epoch"
# Features (N, D) or pixel values of the N pictures of a split, by their name in a batch.
Known = Mapping[str, Sequence[Any]]


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


def check_pictures(pictures: Dataset, *others: Dataset) -> None:
    """
    Decode every picture of a split that this process has not decoded before. `MEMORY` keeps those that fit.

    Args:
        pictures: a split of `FewShotData`.
        others: further splits. They are opened only if a picture of `pictures` cannot be read.

    Raises:
        ValueError: if pictures cannot be read. The message lists all of them.
    """
    if not (errors := MEMORY.errors(pictures)):
        return
    splits = (pictures, *others)
    errors += [error for split in others for error in MEMORY.errors(split)]
    raise ValueError("\n".join([f"{len(errors)} of {sum(map(len, splits))} pictures cannot be used:", *errors]))


class TestPictures(torch.utils.data.Dataset):
    """
    Each picture of a split, once, in the order of the split. A sample is a dict of `pixel_values` (3, H, W), `labels`
    and `picture`, its position, so that a batch takes little memory even if the pictures are large.

    Args:
        pictures: a split of `FewShotData`.
        image_processor: the image processor of the CLIP.
        known: features that each sample holds; with `image_features`, no picture is opened, and there are no pixels.
            It may hold `pixel_values`, as `PictureMemory.pixel_values` returns them.
    """

    __test__ = False  # pytest would collect the class because of its name

    def __init__(self, pictures: Dataset, image_processor: BaseImageProcessor, known: Optional[Known] = None):
        self.pictures = pictures
        self.image_processor = image_processor
        self.labels = pictures["label"][:]
        self.known = dict(known or {})
        if not self.known.keys() & {IMAGE_FEATURES, PIXEL_VALUES}:
            self.known[PIXEL_VALUES] = MEMORY.pixel_values(pictures, image_processor)

    @property
    def is_in_memory(self) -> bool:
        """True if no picture must be decoded for the samples."""
        return IMAGE_FEATURES in self.known or all(row is not None for row in self.known[PIXEL_VALUES])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = {name: rows[index] for name, rows in self.known.items()}
        if PIXEL_VALUES in sample and sample[PIXEL_VALUES] is None:
            sample[PIXEL_VALUES] = pixel_values(picture(self.pictures[index]), self.image_processor)
        return {**sample, "labels": self.labels[index], PICTURE: index}


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
    return epoch, position, int(_order(number_of_pictures, seed, epoch)[position])


@lru_cache(maxsize=2)  # a batch may hold the end of an epoch and the start of the next
def _order(number_of_pictures: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(number_of_pictures)


class RandomCrops:
    """
    Random crops of the pictures of a split, which are decoded once if they fit in memory.

    Args:
        pictures: a split of `FewShotData`.
        image_processor: the image processor of the CLIP. It leaves the size of the crops as it is.
        side: side of the crops, in pixels.
    """

    def __init__(self, pictures: Dataset, image_processor: BaseImageProcessor, side: int):
        self.pictures = pictures
        self.image_processor = image_processor
        self.side = side
        self.opened = MEMORY.opened(pictures)

    def __call__(self, index: int, rng: np.random.Generator) -> torch.Tensor:
        """The pixel values (3, H, W) of a random crop of the picture at a position of the split."""
        opened = self.opened[index]
        image = picture(self.pictures[index]) if opened is None else opened
        crop = random_resized_crop(image, self.side, rng)
        return pixel_values(crop, self.image_processor, do_resize=False, do_center_crop=False)


class View(NamedTuple):
    """A random crop of each picture that is drawn once, and not anew in each epoch."""

    number: int  # counted from 0
    seed: int
    side: int  # pixels


class PicturesOfView(torch.utils.data.Dataset):
    """
    The crops of a view, in the order of the split. A sample is a dict of `pixel_values` (3, H, W). It depends on the
    view and the position of the picture only.

    Args:
        pictures: a split of `FewShotData`.
        image_processor: the image processor of the CLIP.
        view: tells the crops from those of other views.
    """

    def __init__(self, pictures: Dataset, image_processor: BaseImageProcessor, view: View):
        self.crops = RandomCrops(pictures, image_processor, view.side)
        self.view = view

    def __len__(self) -> int:
        return len(self.crops.pictures)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {PIXEL_VALUES: self.crops(index, np.random.default_rng([self.view.seed, self.view.number, index]))}


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
        known: features that each sample holds (see `TestPictures`), in place of crops that are drawn in each epoch.
            If there are several, the epochs take them in turn.
    """

    def __init__(
        self,
        pictures: Dataset,
        length: int,
        seed: int,
        crop_size: int | None,
        image_processor: BaseImageProcessor,
        known: Sequence[Known] = (),
    ):
        self.length = length
        self.seed = seed
        self.labels = pictures["label"][:]
        self.crops = None
        self.unchanged = []
        if crop_size is not None and not known:
            self.crops = RandomCrops(pictures, image_processor, crop_size)
        else:
            self.unchanged = [TestPictures(pictures, image_processor, one) for one in known or [{}]]

    @property
    def is_in_memory(self) -> bool:
        """True if no picture must be decoded or cropped for the samples."""
        return self.crops is None and all(samples.is_in_memory for samples in self.unchanged)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, position, number = place_of(index, len(self.labels), self.seed)
        place = {PICTURE: number, INDEX: index, EPOCH: epoch}
        if self.crops is None:
            return {**self.unchanged[epoch % len(self.unchanged)][number], **place}
        pixels = self.crops(number, np.random.default_rng([self.seed, epoch, position]))
        return {PIXEL_VALUES: pixels, "labels": self.labels[number], **place}
