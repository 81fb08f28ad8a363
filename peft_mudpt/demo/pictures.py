"""Draws the demo pictures. The class is a fill, a color and a shape; the style sets background, noise and the like."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 32  # pixels, both sides
OVERSAMPLING = 4  # pictures are drawn larger and then reduced, for smooth edges


def _ring_of_points(radii: list[float], count: int, start: float = -0.25) -> list[tuple[float, float]]:
    """`count` points (x, y) around the origin. Their distances cycle through `radii`; `start` is in full turns."""
    angles = [2 * np.pi * (start + i / count) for i in range(count)]
    return [(radii[i % len(radii)] * np.cos(a), radii[i % len(radii)] * np.sin(a)) for i, a in enumerate(angles)]


def _heart() -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x, y = 16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return list(zip(x / 17, -y / 17))


# Corners in units of the shape's radius, y downwards.
SHAPES: dict[str, list[tuple[float, float]]] = {
    "circle": _ring_of_points([0.9], 48),
    "square": _ring_of_points([1.1], 4, start=0.125),
    "triangle": _ring_of_points([1.1], 3),
    "diamond": [(0, -1.15), (0.65, 0), (0, 1.15), (-0.65, 0)],
    "star": _ring_of_points([1.15, 0.48], 10),
    "cross": [
        *((-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3)),
        *((0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)),
    ],
    "arrow": [(1.1, 0), (0.2, -0.9), (0.2, -0.35), (-1, -0.35), (-1, 0.35), (0.2, 0.35), (0.2, 0.9)],
    "heart": _heart(),
}
HUES = {"red": 0, "orange": 30, "yellow": 56, "green": 120, "blue": 222, "purple": 285}  # degrees
FILLS = ("filled", "hollow")

CLASS_NAMES = tuple(" ".join(words) for words in product(FILLS, HUES, SHAPES))


@dataclass(frozen=True)
class Style:
    """How a picture looks, independent of its class. Colors and brightness are in 0..1, lengths in pixels."""

    background: tuple[tuple[float, float, float], tuple[float, float, float]]  # RGB at the top and at the bottom
    background_jitter: float = 0.08
    hue_shift: float = 0.0  # of the shape, in degrees
    fading: float = 0.0  # share of the background's color in the shape's color, 0..1
    scribbles: int = 0  # thin strokes drawn over the picture
    noise: float = 0.0  # standard deviation
    blur: float = 0.0  # radius


WHITE, BLACK = (0.95, 0.95, 0.95), (0.06, 0.06, 0.06)
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
    from PIL import Image, ImageDraw, ImageFilter

    if class_name not in CLASS_NAMES:
        raise ValueError(f"Unknown class {class_name!r}; a class is a fill, a color and a shape: {CLASS_NAMES[0]!r}.")
    if style not in STYLES:
        raise ValueError(f"Unknown style {style!r}; the styles are {', '.join(STYLES)}.")
    look = STYLES[style]
    fill, color, shape = class_name.split()
    scale = OVERSAMPLING

    rows = np.linspace(0, 1, SIZE * scale)[:, None, None]
    top, bottom = np.array(look.background[0]), np.array(look.background[1])
    background = top + (bottom - top) * rows + rng.uniform(-1, 1, 3) * look.background_jitter  # (H, 1, 3)
    canvas = np.broadcast_to(background, (SIZE * scale, SIZE * scale, 3)).clip(0, 1)
    picture = Image.fromarray((canvas * 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)

    def ink(rgb) -> tuple[int, ...]:
        return tuple(int(255 * c) for c in np.clip(rgb, 0, 1))

    hue = (HUES[color] + look.hue_shift + rng.uniform(-6, 6)) / 360
    rgb = np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.8, 1), rng.uniform(0.75, 1)))
    rgb += look.fading * (background.mean((0, 1)) - rgb)
    radius, angle = rng.uniform(8, 12) * scale, rng.uniform(-0.2, 0.2)
    center = (SIZE / 2 + rng.uniform(-3.5, 3.5, 2)) * scale
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = [tuple(center + radius * rotation @ np.array(corner)) for corner in SHAPES[shape]]
    if fill == "filled":
        pen.polygon(corners, fill=ink(rgb))
    else:
        pen.line([*corners, *corners[:2]], fill=ink(rgb), width=round(rng.uniform(1.8, 2.6) * scale), joint="curve")
    for _ in range(look.scribbles):
        stroke = [tuple(point) for point in rng.uniform(0, SIZE * scale, (2, 2))]
        pen.line(stroke, fill=ink(rng.uniform(0, 1, 3)), width=round(rng.uniform(0.6, 1.4) * scale))

    picture = picture.resize((SIZE, SIZE), Image.Resampling.BOX)
    if look.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(look.blur))
    if look.noise:
        noisy = np.asarray(picture) / 255 + rng.normal(0, look.noise, (SIZE, SIZE, 3))
        picture = Image.fromarray((noisy.clip(0, 1) * 255).astype(np.uint8))
    return picture
