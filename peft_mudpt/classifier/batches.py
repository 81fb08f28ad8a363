"""Reads pictures in batches, which processes of their own can do while the model computes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from transformers import BaseImageProcessor

from .pictures import pixel_values_of_each
from .reading import Errors, numbered, opened, take


if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS_AT_ONCE = 1 << 22  # of pictures that wait in memory to be preprocessed together


class Batch(NamedTuple):
    """
    Pictures that were read together.

    Attributes:
        names: what error messages call each picture.
        pixels: the pixel values (n, 3, H, W) of the n pictures that could be read; (0,) if there are none.
        errors: the error of each other picture, by its place in the batch.
    """

    names: list[str]
    pixels: torch.Tensor  # one tensor, because each takes time to pass from process to process
    errors: dict[int, str]


class PictureBatches(torch.utils.data.Dataset):
    """
    Pictures, read in batches: the item at a range of positions is a `Batch`.

    Small pictures of a batch are preprocessed together, which is faster and gives the same bits.

    Args:
        pictures: the pictures, each as `open_picture` takes it.
        image_processor: the image processor of the CLIP.
        name: what error messages call a picture, given the picture and its position.
    """

    def __init__(
        self,
        pictures: Sequence[Any] | np.ndarray,
        image_processor: BaseImageProcessor,
        name: Callable[[Any, int], str] = numbered,
    ):
        self.pictures = pictures
        self.image_processor = image_processor
        self.name = name

    def __getitem__(self, positions: range) -> Batch:
        names: list[str] = []
        pixels: dict[int, torch.Tensor] = {}  # by place, as what follows
        errors: dict[int, str] = {}
        size = 0
        waiting: dict[int, Image] = {}
        for place, position in enumerate(positions):
            picture = take(self.pictures, position)
            names.append(self.name(picture, position))
            try:
                image = opened(picture, position, names[-1])
            except ValueError as error:
                errors[place] = str(error)
                continue
            waiting[place] = image
            size += image.width * image.height
            if size > PIXELS_AT_ONCE:
                self._preprocess(waiting, pixels, errors)
                waiting, size = {}, 0
        self._preprocess(waiting, pixels, errors)
        return Batch(names, torch.stack(list(pixels.values())) if pixels else torch.empty(0), errors)

    def _preprocess(self, images: dict[int, Image], pixels: dict[int, torch.Tensor], errors: dict[int, str]) -> None:
        try:
            pixels |= zip(images, pixel_values_of_each(list(images.values()), self.image_processor))
        except ValueError as error:
            if len(images) == 1:
                errors |= dict.fromkeys(images, str(error))
                return
            for place, image in images.items():  # look which of them it is
                self._preprocess({place: image}, pixels, errors)


def read_batches(
    pictures: PictureBatches, batches: Sequence[range], num_workers: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """
    Read batches, in their order.

    Args:
        pictures: the pictures.
        batches: the positions of each batch.
        num_workers: number of processes that read; 0: this one does. There are no more than batches, and none for
            one batch. They end with this process, however it ends.
        pin_memory: whether the pixel values are copied into memory from which an accelerator can copy them while the
            program goes on.

    Yields:
        Each batch.
    """
    workers = min(num_workers, len(batches)) if len(batches) > 1 else 0
    yield from torch.utils.data.DataLoader(
        pictures,
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=end_with_parent,
        generator=torch.Generator(),  # the loader draws a seed, which must not come from the user's random numbers
    )


def read_each_in_workers(
    images: Iterable[Any],
    image_processor: BaseImageProcessor,
    errors: Errors,
    skipped: dict[int, str],
    batch_size: int,
    num_workers: int,
) -> Iterator[tuple[int, torch.Tensor]]:
    """
    Read pictures in processes of their own, as `read_each` reads them in this one.

    Args:
        images: a sequence of pictures.
        image_processor: the image processor of the CLIP.
        errors: "raise", or "skip" to go on after a picture that cannot be read.
        skipped: takes the messages of the pictures that were skipped, by position.
        batch_size: number of pictures that a process reads at a time.
        num_workers: number of processes.

    Yields:
        Position, counted from 0, and pixel values (3, H, W).

    Raises:
        ValueError: if `images` is not a sequence, or if a picture cannot be read, unless it is skipped.
    """
    if not isinstance(images, (Sequence, np.ndarray)):
        raise ValueError(
            f"num_workers={num_workers} needs pictures in a sequence, such as a list, because each process takes "
            f"its own; found {type(images).__name__}. Give list(images), or num_workers=0."
        )
    batches = in_ranges(0, len(images), batch_size)
    pictures = PictureBatches(images, image_processor)
    for positions, batch in zip(batches, read_batches(pictures, batches, num_workers)):
        if batch.errors and errors == "raise":
            raise ValueError(batch.errors[min(batch.errors)])
        skipped |= {positions[place]: message for place, message in batch.errors.items()}
        yield from zip([position for position in positions if position not in skipped], batch.pixels)


def end_with_parent(worker: int) -> None:
    """Let this worker of a DataLoader end when the process that started it is killed, even while it reads."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def in_ranges(start: int, stop: int, size: int) -> list[range]:
    """Divide the positions from `start` to `stop` into ranges of `size`, of which the last may be shorter."""
    return [range(first, min(first + size, stop)) for first in range(start, stop, size)]
