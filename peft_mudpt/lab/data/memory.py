"""Keeps decoded pictures and pixel values in memory, so that each picture of a run is decoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Optional

import torch
from transformers import BaseImageProcessor

from ...classifier.pictures import open_picture, picture_size, pixel_values
from .fingerprints import fingerprint, fingerprints_of, images_and_items


if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

DEFAULT_LIMIT = 2 * 2**30  # bytes
CHANNELS = 3
BATCH = 32  # pictures that are made at a time, before it is decided whether more of them fit


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


class PictureMemory:
    """
    What is kept of pictures, within a limit. A picture is known by the content of its file, so that runs of one
    process that draw the same picture share it.

    What the present run uses is never dropped for another picture of this run, because a run reads its pictures in
    turns: each would be dropped before it is read again.
    """

    def __init__(self):
        self.limit: float = DEFAULT_LIMIT  # bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()  # objects and their bytes; the oldest first
        self._bytes = 0
        self._in_use: set[Hashable] = set()
        self._were_read: set[str] = set()

    def begin(self, limit: float) -> None:
        """
        Begin a run.

        Args:
            limit: bytes that may be kept.
        """
        self.limit = limit
        self._in_use.clear()
        self._make_room(0)

    def errors(self, pictures: Dataset) -> list[str]:
        """
        Decode the pictures that this process has not decoded before, and keep those that fit.

        Args:
            pictures: a split of `FewShotData`.

        Returns:
            A message for each picture that cannot be read.
        """
        errors = []
        for example in images_and_items(pictures):
            try:
                key = fingerprint(example)
                if key not in self._were_read:
                    self._keep(key, picture(example))
                    self._were_read.add(key)
            except ValueError as error:
                errors.append(str(error))
        return errors

    def opened(self, pictures: Dataset) -> list[Optional[Image]]:
        """
        Decode pictures.

        Args:
            pictures: a split of `FewShotData`.

        Returns:
            The pictures, in RGB; None for those that do not fit in memory.

        Raises:
            ValueError: if a picture cannot be read.
        """

        def opened(index: int, key: str) -> Optional[Image]:
            if (kept := self._find(key)) is not None:
                return kept
            example = pictures[index]
            width, height = picture_size(example["image"])
            return self._keep(key, picture(example)) if self._make_room(width * height * CHANNELS) else None

        return [opened(index, key) for index, key in enumerate(fingerprints_of(pictures))]

    def pixel_values(self, pictures: Dataset, image_processor: BaseImageProcessor) -> list[Optional[torch.Tensor]]:
        """
        Decode and preprocess pictures.

        Args:
            pictures: a split of `FewShotData`.
            image_processor: the image processor of the CLIP.

        Returns:
            The pixel values (3, H, W) of each picture; None for those that do not fit in memory.

        Raises:
            ValueError: if a picture cannot be read.
        """
        settings = image_processor.to_json_string()
        digests = fingerprints_of(pictures)
        found = [self._find((digest, settings)) for digest in digests]
        missing = [index for index, kept in enumerate(found) if kept is None]
        self._in_use.difference_update(digests)  # the run needs the pictures themselves no more

        def preprocess(index: int) -> torch.Tensor:
            image = self._kept.get(digests[index], (None,))[0]
            return pixel_values(picture(pictures[index]) if image is None else image, image_processor)

        # Pillow decodes and resizes outside of Python's global lock
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            size, start = 0, 0
            while start < len(missing) and self._make_room(size):
                # the first by itself, because it tells how many bytes the others need
                some = missing[start : start + BATCH] if start else missing[:1]
                for index, made in zip(some, pool.map(preprocess, some)):
                    found[index] = self._keep((digests[index], settings), made)
                    size = made.nbytes
                start += len(some)
        return found

    def _find(self, key: Hashable) -> Any:
        """What is kept under a key, marked as used by this run; None if there is nothing."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        self._in_use.add(key)
        return self._kept[key][0]

    def _keep(self, key: Hashable, made: Any) -> Any:
        """Keep an object if it fits. Return it; None if it does not fit."""
        size = made.nbytes if isinstance(made, torch.Tensor) else made.width * made.height * CHANNELS
        if key not in self._kept:
            if not self._make_room(size):
                return None
            self._kept[key] = made, size
            self._bytes += size
        return self._find(key)

    def _make_room(self, needed: int) -> bool:
        """Drop what this run does not use, the oldest first, until a number of bytes fits. Return whether it fits."""
        if self._bytes + needed > self.limit:
            for key in [key for key in self._kept if key not in self._in_use]:
                self._bytes -= self._kept.pop(key)[1]
                if self._bytes + needed <= self.limit:
                    break
        return self._bytes + needed <= self.limit


MEMORY = PictureMemory()  # of this process
