"""Opens pictures: training, testing and prediction all see a picture as `open_picture` returns it."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from reprlib import repr as short_repr
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
import torch
from transformers import BaseImageProcessor

from ..optional import install


if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = Union[str, os.PathLike, bytes, Image, np.ndarray, Mapping[str, Any]]

PICTURE_RULE = (
    "Turn the picture upright as its EXIF orientation says. Of several frames, take the first. Scale gray values of "
    "16 bits to 8 bits: the brightest pixel decides whether they have 8, 10, 12, 14 or 16 bits. Scale floating point "
    "values from 0..1 to 0..255. Lay transparent parts on white. Convert the picture to RGB."
)
LARGEST_RATIO = 100  # of the sides: image processors enlarge the shorter one before they crop, which takes memory
DEPTHS = (8, 10, 12, 14, 16)  # bits per gray value that cameras and scanners have
TIFF_WHITE = 262  # the tag that says whether the gray value 0 is white or black
ORIENTATION = 274  # the tag that says how to turn a picture upright
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
PNG_SCALES = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}  # to 8 bits, by Pillow's name of the layout
HEIF_BRANDS = (b"hei", b"hev", b"mif1", b"msf1")
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|data:")


def open_picture(source: Picture, name: Optional[str] = None) -> Image:
    """
    Open a picture, in the one way that training, testing and prediction share.

    The picture is turned upright as its EXIF orientation says. Of several frames, the first is taken. Gray values of
    16 bits are scaled to 8 bits: the brightest pixel decides whether they have 8, 10, 12, 14 or 16 bits. Floating
    point values from 0 to 1 are scaled to 8 bits as well. Transparent parts are laid on white.

    Args:
        source: a file, the bytes of a file, a PIL image, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or a
            dict with `bytes` or `path`, as `datasets` stores a picture. A URL is not opened. HEIC files need the
            package pillow-heif.
        name: what error messages call the picture; None: its path, or "the picture".

    Returns:
        The picture, as a PIL image in RGB.

    Raises:
        ValueError: if the picture is missing or damaged, if it is of another kind or shape, or if one side is more
            than 100 times as long as the other.
    """
    register_formats()
    name = name or path_of(source) or "the picture"
    try:
        with _opened(source) as image:
            return _to_rgb(image)
    except Exception as error:  # damaged files raise anything: Pillow's decoders name no common exception
        raise ValueError(f"{name} cannot be read: {_cause(error)}") from error


def pixel_values(picture: Image, image_processor: BaseImageProcessor, **options: Any) -> torch.Tensor:
    """
    Preprocess one picture. Pictures that are preprocessed one by one need little memory, because each is small then.

    Args:
        picture: what `open_picture` returned.
        image_processor: the image processor of the CLIP.
        **options: for the image processor.

    Returns:
        The pixel values (3, H, W).
    """
    return image_processor(picture, return_tensors="pt", **options).pixel_values[0]


def pixel_values_of_each(pictures: list[Image], image_processor: BaseImageProcessor) -> list[torch.Tensor]:
    """
    Preprocess pictures together, which saves time if they are small.

    Args:
        pictures: what `open_picture` returned.
        image_processor: the image processor of the CLIP.

    Returns:
        The pixel values (3, H, W) of each picture, equal in every bit to those of `pixel_values`.
    """
    if not pictures or getattr(image_processor, "backend", None) != "pil":  # others resize a whole batch otherwise
        return [pixel_values(picture, image_processor) for picture in pictures]
    return list(map(torch.from_numpy, image_processor(pictures).pixel_values))


def picture_size(source: Picture, name: Optional[str] = None) -> tuple[int, int]:
    """
    Read the size of a picture as `open_picture` returns it, without decoding its pixels.

    Args:
        source: a picture, as `open_picture` takes it.
        name: what error messages call it; None: its path, or "the picture".

    Returns:
        Width and height in pixels, upright.

    Raises:
        ValueError: if the picture is missing, or no picture.
    """
    register_formats()
    try:
        with _opened(source) as image:
            width, height = image.size
            lies = image.format != "TIFF" and image.getexif().get(ORIENTATION, 1) >= 5
    except Exception as error:  # as in `open_picture`
        raise ValueError(f"{name or path_of(source) or 'the picture'} cannot be read: {_cause(error)}") from error
    return (height, width) if lies else (width, height)


def path_of(source: Any) -> Optional[str]:
    """The path of a picture that is given by its path, shortened if it is very long; None for other pictures."""
    if isinstance(source, Mapping):
        source = source.get("path")
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = os.fsdecode(source)
    return path if len(path) <= 1000 else f"{path[:100]}..."


class _Unsuitable(ValueError):
    """A picture that is not opened, with the reason and what to do about it."""


@cache
def register_formats() -> bool:
    """Let Pillow open HEIC, the format of many telephones, if the package pillow-heif is installed; return whether."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _opened(source: Any) -> Any:
    """A context that yields the picture as a PIL image, not yet converted, and closes the file that was opened."""
    from PIL import Image

    if isinstance(source, Mapping):
        if not source.keys() & {"bytes", "path"}:
            raise _Unsuitable(
                f"it is of type {type(source).__name__}, with the keys {short_repr(list(source))}. Give the picture "
                "in it; of a data set, give the column of pictures."
            )
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if isinstance(source, Image.Image):
        return nullcontext(source)  # the caller closes it
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decoder(io.BytesIO(source))
    if not isinstance(source, (str, os.PathLike)):
        raise _Unsuitable(
            f"it is of type {type(source).__name__}. Give the path or the bytes of a file, a PIL image, or a numpy "
            "array (H, W, 3)."
        )
    if URL.match(os.fsdecode(source)):
        raise _Unsuitable("it is a URL. Pictures are not fetched from a network: download it, and give the file.")
    if not os.path.isfile(source):  # reading a pipe or a device may never end
        raise _Unsuitable("it is not a file. Check the path.")
    return _decoder(source)


def _from_array(array: np.ndarray) -> Image:
    from PIL import Image

    values = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if values.size == 0 or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))):
        raise _Unsuitable(f"it is an array {array.shape}. Give one of (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).")
    return Image.fromarray(_eight_bits(values))


def _decoder(file: Any) -> Image:
    """Open an encoded picture without decoding its pixels."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file)
    except UnidentifiedImageError as error:
        if _is_heif(file) and not register_formats():
            raise _Unsuitable(f"it is a HEIC picture, which needs pillow-heif: {install('heic')}") from error
        raise _Unsuitable("it is not a picture in a format that Pillow knows. Replace or remove it.") from error


def _is_heif(file: Any) -> bool:
    if isinstance(file, io.BytesIO):
        head = file.getvalue()[:12]
    else:
        with open(file, "rb") as opened:
            head = opened.read(12)
    return head[4:8] == b"ftyp" and head[8:].startswith(HEIF_BRANDS)


def _to_rgb(image: Image) -> Image:
    from PIL import Image as images

    _check_kind(image)
    # both before the pixels are decoded: Pillow then forgets how they were stored
    cut_to_eight_bits = any(";16" in str(tile) for tile in getattr(image, "tile", ())) and image.mode[:3] == "RGB"
    transparent = _scaled_transparent_color(image)
    image = _upright(image)
    if transparent is not None:
        image.info["transparency"] = transparent
    if image.mode == "F" or image.mode.startswith("I"):
        image = _gray_of_eight_bits(image)
    if cut_to_eight_bits and 0 < np.asarray(image)[..., :3].max() < 16:
        raise _Unsuitable("its colors have 12 bits or fewer, stored in 16, of which Pillow reads 8. Scale them to 16.")
    if image.has_transparency_data:
        visible = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = images.alpha_composite(images.new("RGBA", image.size, "white"), visible)
    return image.convert("RGB")


def _check_kind(image: Image) -> None:
    """Refuse a picture, before its pixels are decoded, that would be decoded wrongly, run, or take much memory."""
    if image.format == "EPS":
        raise _Unsuitable("it is a program in PostScript, which is not run. Convert it to PNG.")
    if image.mode[0] in "FI" and getattr(image, "tag_v2", {}).get(TIFF_WHITE) == 0:
        raise _Unsuitable(
            "it is a TIFF of more than 8 bits in which 0 is white; Pillow shows it inverted. Convert it to PNG."
        )
    short, long = sorted(image.size)
    if long > LARGEST_RATIO * short or not short:
        raise _Unsuitable(
            f"it is {image.width} x {image.height} pixels, and one side may be at most {LARGEST_RATIO} times as long "
            "as the other. Crop it."
        )


def _scaled_transparent_color(image: Image) -> Any:
    """The color that a PNG calls transparent, scaled to 8 bits as its pixels will be; None if Pillow has it right."""
    color, tiles = image.info.get("transparency"), getattr(image, "tile", ())
    scale = PNG_SCALES.get(tiles[0][-1]) if image.format == "PNG" and tiles else None
    if scale is None or color is None:
        return None
    return tuple(int(value * scale) for value in color) if isinstance(color, tuple) else int(color * scale)


def _upright(image: Image) -> Image:
    """A copy, turned as EXIF says. Pillow's `exif_transpose` also writes EXIF again, and fails if any tag is wrong."""
    from PIL.Image import Transpose

    image.load()  # formats such as TIFF turn the picture themselves
    turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    return image.copy() if turn is None else image.transpose(Transpose[turn])


def _gray_of_eight_bits(image: Image) -> Image:
    from PIL import Image as images

    values = np.asarray(image)  # (H, W)
    gray = images.fromarray(_eight_bits(values))
    transparent = image.info.get("transparency")  # a gray value of the original depth
    if transparent is not None:
        gray.putalpha(images.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return gray


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale integers of up to 16 bits, or floats from 0 to 1, to 8 bits; same shape. Refuse other values."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iuf":
        raise _Unsuitable(f"its values are of type {values.dtype}. Give integers of 8 bits.")
    low, high = values.min(), values.max()
    largest = 1 if values.dtype.kind == "f" else 2 ** DEPTHS[-1] - 1
    if not 0 <= low <= high <= largest:  # NaN, too
        raise _Unsuitable(
            f"its values are from {low:,} to {high:,}, so which one is white is unknown. Scale them to 8 bits, to 16 "
            "bits, or to floating point from 0 to 1."
        )
    if values.dtype.kind == "f":
        return np.rint(255 * values).astype(np.uint8)
    white = next(2**depth - 1 for depth in DEPTHS if high < 2**depth)
    return np.rint(np.arange(white + 1) * (255 / white)).astype(np.uint8)[values]


def _cause(error: Exception) -> str:
    """Why a picture cannot be read, and what to do, in a sentence."""
    if isinstance(error, _Unsuitable):
        return str(error)
    kind = "" if isinstance(error, (OSError, SyntaxError, ValueError)) else f"{type(error).__name__}: "
    return f"{kind}{error}".strip(". ") + ". Replace or remove it."
