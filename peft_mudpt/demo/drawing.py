"""Draws shapes in a style: what pictures of one shape and scenes of several share."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from PIL.Image import Image

OVERSAMPLING = 4  # pictures are drawn larger and then reduced, for smooth edges
Point = tuple[float, float]


def _ring_of_points(radii: list[float], count: int, start: float = -0.25) -> list[Point]:
    """`count` points (x, y) around the origin. Their distances cycle through `radii`; `start` is in full turns."""
    angles = [2 * np.pi * (start + i / count) for i in range(count)]
    return [(radii[i % len(radii)] * np.cos(a), radii[i % len(radii)] * np.sin(a)) for i, a in enumerate(angles)]


def _heart() -> list[Point]:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x, y = 16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return list(zip(x / 17, -y / 17))


# Corners in units of the shape's radius, y downwards.
SHAPES: dict[str, list[Point]] = {
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


@dataclass(frozen=True)
class Style:
    """How a picture looks, independent of its class. Colors and brightness are in 0..1, lengths in pixels."""

    background: tuple[tuple[float, float, float], tuple[float, float, float]]  # RGB at the top and at the bottom
    background_jitter: float = 0.08
    hue_shift: float = 0.0  # of the shape, in degrees
    fading: float = 0.0  # share of the background's color in the shape's color, 0..1
    line_widths: tuple[float, float] = (1.8, 2.6)  # the thinnest and the thickest outline
    outlined: bool = False  # scenes show outlines in place of filled shapes; in pictures, the class decides
    scribbles: int = 0  # thin strokes drawn over the picture
    blur: float = 0.0  # radius
    noise: float = 0.0  # standard deviation


WHITE, GRAY, BLACK = (0.95, 0.95, 0.95), (0.6, 0.6, 0.6), (0.06, 0.06, 0.06)


class Sheet:
    """
    A picture in the making. The random numbers are used in the order of the calls.

    Args:
        size: pixels, both sides.
        style: how the picture looks.
        rng: random numbers.
    """

    def __init__(self, size: int, style: Style, rng: np.random.Generator):
        from PIL import Image, ImageDraw

        self._size, self._style, self._rng = size, style, rng
        side = size * OVERSAMPLING
        rows = np.linspace(0, 1, side)[:, None, None]
        top, bottom = np.array(style.background[0]), np.array(style.background[1])
        background = top + (bottom - top) * rows + rng.uniform(-1, 1, 3) * style.background_jitter  # (H, 1, 3)
        column = (background.clip(0, 1) * 255).astype(np.uint8)  # (H, 1, 3)
        self._background = background.mean((0, 1))  # (3,)
        self._picture = Image.fromarray(np.repeat(column, side, axis=1))  # (H, W, 3)
        self._pen = ImageDraw.Draw(self._picture)

    def color(self, name: str) -> np.ndarray:
        """A random shade (RGB) of one of `HUES`."""
        hue = (HUES[name] + self._style.hue_shift + self._rng.uniform(-6, 6)) / 360
        rgb = np.array(colorsys.hsv_to_rgb(hue % 1, self._rng.uniform(0.8, 1), self._rng.uniform(0.75, 1)))
        return rgb + self._style.fading * (self._background - rgb)

    def fill(self, corners: Sequence[Point], rgb: np.ndarray) -> None:
        """Fill a shape, given by its corners in pixels."""
        self._pen.polygon(self._scaled(corners), fill=_ink(rgb))

    def outline(self, corners: Sequence[Point], rgb: np.ndarray) -> float:
        """Draw the outline of a shape, given by its corners in pixels, and return its width in pixels."""
        width = self._rng.uniform(*self._style.line_widths)
        points = self._scaled(corners)
        self._pen.line([*points, *points[:2]], fill=_ink(rgb), width=round(width * OVERSAMPLING), joint="curve")
        return width

    def finished(self) -> Image:
        """The picture (RGB), after scribbles, blur and noise."""
        from PIL import Image, ImageFilter

        for _ in range(self._style.scribbles):
            stroke = [tuple(point) for point in self._rng.uniform(0, self._size * OVERSAMPLING, (2, 2))]
            ink = _ink(self._rng.uniform(0, 1, 3))
            self._pen.line(stroke, fill=ink, width=round(self._rng.uniform(0.6, 1.4) * OVERSAMPLING))
        picture = self._picture.resize((self._size, self._size), Image.Resampling.BOX)
        if self._style.blur:
            picture = picture.filter(ImageFilter.GaussianBlur(self._style.blur))
        if self._style.noise:
            noisy = np.asarray(picture) / 255 + self._rng.normal(0, self._style.noise, (self._size, self._size, 3))
            picture = Image.fromarray((noisy.clip(0, 1) * 255).astype(np.uint8))
        return picture

    @staticmethod
    def _scaled(corners: Sequence[Point]) -> list[Point]:
        return [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in corners]


def corners_of(shape: str, center: np.ndarray, radius: float, angle: float) -> list[Point]:
    """The corners of one of `SHAPES` in a picture, turned by an angle in radians."""
    rotation = radius * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # one by one: the product of all at once rounds differently
    return [tuple(center + rotation @ corner) for corner in np.array(SHAPES[shape])]


def _ink(rgb: np.ndarray) -> tuple[int, ...]:
    return tuple(int(255 * c) for c in np.clip(rgb, 0, 1))
