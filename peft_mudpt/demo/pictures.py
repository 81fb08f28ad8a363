"""Draws the demo pictures. The class is a fill, a color and a shape; the style sets background, noise and the like."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from .drawing import BLACK, HUES, SHAPES, WHITE, Sheet, Style, corners_of


if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 32  # pixels, both sides
FILLS = ("filled", "hollow")

CLASS_NAMES = tuple(" ".join(words) for words in product(FILLS, HUES, SHAPES))

STYLES = {
    "plain": Style(background=(WHITE, WHITE)),
    "dark": Style(background=(BLACK, BLACK)),
    "noisy": Style(background=((0.6, 0.6, 0.6), (0.6, 0.6, 0.6)), background_jitter=0.2, noise=0.12),
    "sunset": Style(background=((0.95, 0.6, 0.35), (0.45, 0.25, 0.5)), hue_shift=20, noise=0.03),
    "faded": Style(background=((0.75, 0.75, 0.7), (0.75, 0.75, 0.7)), fading=0.6, blur=0.6),
    "scribbled": Style(background=(WHITE, WHITE), scribbles=7),
}


def paint(class_name: str, style: str, rng: np.random.Generator) -> Image:
    """
    Paint one picture (RGB, 32 x 32).

    Args:
        class_name: one of `CLASS_NAMES`, such as "filled red star".
        style: one of `STYLES`.
        rng: random numbers for position, size, rotation and shades.

    Returns:
        The picture, a Pillow image.

    Raises:
        ValueError: if the class or the style is unknown.
    """
    if class_name not in CLASS_NAMES:
        raise ValueError(f"Unknown class {class_name!r}; a class is a fill, a color and a shape: {CLASS_NAMES[0]!r}.")
    if style not in STYLES:
        raise ValueError(f"Unknown style {style!r}; the styles are {', '.join(STYLES)}.")
    fill, color, shape = class_name.split()
    sheet = Sheet(SIZE, STYLES[style], rng)
    rgb = sheet.color(color)
    radius, angle = rng.uniform(8, 12), rng.uniform(-0.2, 0.2)
    corners = corners_of(shape, SIZE / 2 + rng.uniform(-3.5, 3.5, 2), radius, angle)
    if fill == "filled":
        sheet.fill(corners, rgb)
    else:
        sheet.outline(corners, rgb)
    return sheet.finished()
