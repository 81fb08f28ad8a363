"""Turns pictures with boxes into batches for training a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import torch
from transformers import BaseImageProcessor

from ....classifier.pictures import picture_size, pixel_values
from ....detection.batches import padded
from ....detection.boxes import centers
from ..loading import EPOCH, INDEX, PICTURE, PIXEL_VALUES, place_of
from ..memory import MEMORY, picture
from .augmentation import BoxAugmentation


if TYPE_CHECKING:
    from datasets import Dataset


class TrainingBoxes(torch.utils.data.Dataset):
    """
    All samples of a training run, as one fixed sequence: epochs over the training pictures, each in another random
    order and with other random augmentations. A sample depends on the seed and its index only.

    A sample is a dict of `pixel_values` (3, H, W); `labels`, a dict of `class_labels` (n,) and `boxes` (n, 4), as
    `FusionDetector` takes them; and its `index`, its `epoch` and the position of the `picture` in the split. Ignored
    boxes are left out, so that a picture of a crowd is a picture without objects, as in the training of DETR.

    Boxes are relative to the picture without its padding, as the detector's are. transformers' image processor makes
    them relative to the padded picture if it pads a batch with `annotations`, which moves them.

    Args:
        pictures: the training pictures, of `BoxData`.
        length: number of samples in the run.
        seed: seed of the orders and the augmentations.
        image_processor: the image processor of the detector.
        augmentation: changes pictures and boxes at random; None: they stay as they are.
    """

    def __init__(
        self,
        pictures: Dataset,
        length: int,
        seed: int,
        image_processor: BaseImageProcessor,
        augmentation: Optional[BoxAugmentation] = None,
    ):
        self.pictures = pictures
        self.length = length
        self.seed = seed
        self.image_processor = image_processor
        self.augmentation = augmentation
        self.pixel_values = MEMORY.pixel_values(pictures, image_processor)

    @property
    def is_in_memory(self) -> bool:
        """True if no picture must be decoded for the samples."""
        return all(pixels is not None for pixels in self.pixel_values)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, position, number = place_of(index, len(self.pictures), self.seed)
        example = self.pictures[number]
        pixels = self.pixel_values[number]  # (3, H, W)
        if pixels is None:
            pixels = pixel_values(picture(example), self.image_processor)
        kept = ~torch.tensor(example["ignored"], dtype=torch.bool)  # (n,)
        boxes = torch.tensor(example["boxes"], dtype=torch.float).reshape(-1, 4)[kept]
        size = picture_size(example["image"])
        boxes = boxes / boxes.new_tensor([*size, *size]) * _sides(pixels)
        if self.augmentation is not None:
            random = np.random.default_rng([self.seed, epoch, position])
            pixels, boxes = self.augmentation(pixels, boxes, int(random.integers(2**32)))
        labels = {
            "class_labels": torch.tensor(example["labels"], dtype=torch.long)[kept],
            "boxes": centers(boxes / _sides(pixels)),
        }
        return {PIXEL_VALUES: pixels, "labels": labels, PICTURE: number, INDEX: index, EPOCH: epoch}


def collate_boxes(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Make a batch of samples. Pictures of unlike sizes are padded, which changes what the models find a little.

    Args:
        samples: B samples of `TrainingBoxes`.

    Returns:
        The arguments of `FusionDetector.forward`: `pixel_values` (B, 3, H, W), `pixel_mask` (B, H, W) and `labels`, a
        list of B dicts.
    """
    return {**padded([own[PIXEL_VALUES] for own in samples]), "labels": [own["labels"] for own in samples]}


def _sides(pixels: torch.Tensor) -> torch.Tensor:
    """Width, height, width and height of a picture (3, H, W)."""
    height, width = pixels.shape[1:]
    return torch.tensor([width, height, width, height], dtype=torch.float)
