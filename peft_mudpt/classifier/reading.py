"""Reads many pictures one by one, and names those that cannot be read: the rule of every kind of prediction."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from reprlib import repr as short_repr
from typing import TYPE_CHECKING, Any, Literal, Optional, TypeVar, Union

import numpy as np

from .pictures import open_picture, path_of


if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from .pictures import Picture

    Images = Union[torch.Tensor, Iterable[Picture]]

Errors = Literal["raise", "skip"]
Read = TypeVar("Read")


def check_iterable(images: Any) -> None:
    """Raise a ValueError unless `images` holds pictures: it must be an iterable that is not one picture itself."""
    one = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Mapping, io.IOBase))
    if one or isinstance(images, (set, frozenset)) or not isinstance(images, Iterable):
        raise ValueError(
            f"images is {short_repr(images)}; give a list of pictures (files, bytes, PIL images or arrays), or a "
            "tensor (N, 3, H, W). For one picture, give [picture]."
        )
    if isinstance(images, np.ndarray) and images.ndim != 4 and not (images.ndim == 1 and images.dtype.kind in "OU"):
        raise ValueError(
            f"images is an array {images.shape} of {images.dtype}; as an array it must be (N, H, W, 3). Give a list "
            "of pictures instead, [picture] for one."
        )


def read_each(
    images: Iterable[Any], reader: Callable[[], Callable[[Any, int], Read]], errors: Errors, skipped: dict[int, str]
) -> Iterator[tuple[int, Read]]:
    """
    Read pictures one by one.

    Args:
        images: any iterable of pictures.
        reader: returns the function that reads a picture, given its position, and raises a ValueError if it cannot.
            What `reader` itself raises is no error of a picture, and is never skipped.
        errors: "raise", or "skip" to go on after a picture that cannot be read.
        skipped: takes the messages of the pictures that were skipped, by position.

    Yields:
        Position, counted from 0, and what was read.

    Raises:
        ValueError: if a picture cannot be read, unless it is skipped.
    """
    for position, image in enumerate(_each(images)):
        read = reader()
        try:
            result = read(image, position)
        except ValueError as error:
            if errors == "raise":
                raise
            skipped[position] = str(error)
        else:
            yield position, result


def opened(picture: Any, position: int, name: Optional[str] = None) -> Image:
    """
    Open the picture at a position.

    Args:
        picture: a picture as `open_picture` takes it, or the exception that was raised instead of it.
        position: its position, counted from 0.
        name: what the error calls it; None: its position, and its path if there is one.

    Raises:
        ValueError: if it cannot be read.
    """
    name = name or numbered(picture, position)
    if isinstance(picture, Exception):
        raise ValueError(f"{name} cannot be read: {picture}") from picture
    return open_picture(picture, name)


def numbered(picture: Any, position: int) -> str:
    """What error messages call the picture at a position: its number, counted from 0, and its path if there is one."""
    path = path_of(picture)
    return f"picture {position}" if path is None else f"picture {position}, {path},"


def take(images: Sequence[Any] | np.ndarray, position: int) -> Any:
    """Take an image from a sequence; if that fails, return the exception in its place."""
    try:
        return images[position]
    except Exception as error:  # a column of `datasets` decodes its pictures only here
        return error


def warn_of_skipped(skipped: Mapping[int, str], number: int, stacklevel: int) -> None:
    """Warn of skipped pictures, if there are any, with a message for each; `number` counts all pictures."""
    if skipped:
        listed = "\n".join(skipped.values())
        warnings.warn(f"{len(skipped)} of {number} pictures were skipped:\n{listed}", stacklevel=stacklevel)


def _each(images: Iterable[Any]) -> Iterator[Any]:
    """Yield each image; in its place the exception, if an image cannot be taken from a sequence."""
    if not isinstance(images, Sequence):
        number = 0
        try:
            for image in images:
                yield image
                number += 1
        except Exception as error:  # a streamed column of `datasets` decodes here, and cannot go on
            raise ValueError(f"picture {number} cannot be read, nor those after it: {error}") from error
        return
    for position in range(len(images)):
        yield take(images, position)
