"""Draws scenes: some shapes on one picture, each with the box around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .drawing import GRAY, HUES, SHAPES, WHITE, Point, Sheet, Style, corners_of


if TYPE_CHECKING:
    from PIL.Image import Image

SCENE_SIZE = 64  # pixels, both sides
SCENE_CLASSES = tuple(SHAPES)  # no colors: a detector scores a class by the best word of its name
SCENE_STYLES = {
    "plain": Style(background=(WHITE, WHITE)),
    "faded": Style(background=(WHITE, WHITE), fading=0.5),
    "gray": Style(background=(GRAY, GRAY)),
    "outlined": Style(background=(WHITE, WHITE), line_widths=(4, 5), outlined=True),
}
EMPTY_SHARE = 0.1  # of scenes without a shape
MOST_SHAPES = 4
MOST_TRIES = 50  # to find a free place for a shape; a scene that is too full gets one shape less
GAP = 1.0  # pixels, at least, between boxes, and between a box and the edge of the picture

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """
    A picture of n shapes.

    Args:
        picture: a Pillow image (RGB).
        boxes: left, top, right and bottom of each shape, in pixels.
        class_names: n of `SCENE_CLASSES`.
    """

    picture: Image
    boxes: list[Corners]
    class_names: list[str]


def paint_scene(style: str, rng: np.random.Generator) -> Scene:
    """
    Paint one scene of 64 x 64 pixels: up to 4 shapes that do not overlap, each of a random class and color.

    Args:
        style: one of `SCENE_STYLES`.
        rng: random numbers for the number of shapes, their classes, positions, sizes, rotations and shades.

    Returns:
        The scene; one in ten shows no shape.

    Raises:
        ValueError: if the style is unknown.
    """
    if style not in SCENE_STYLES:
        raise ValueError(f"Unknown style {style!r}; the styles of scenes are {', '.join(SCENE_STYLES)}.")
    look = SCENE_STYLES[style]
    sheet = Sheet(SCENE_SIZE, look, rng)
    number = 0 if rng.uniform() < EMPTY_SHARE else rng.integers(1, MOST_SHAPES + 1)
    boxes: list[Corners] = []
    names: list[str] = []
    for name in rng.choice(SCENE_CLASSES, number).tolist():
        rgb = sheet.color(rng.choice(list(HUES)))
        corners = _placed(name, boxes, rng)
        if corners is None:
            continue
        margin = 0.0
        if look.outlined:
            margin = sheet.outline(corners, rgb) / 2
        else:
            sheet.fill(corners, rgb)
        boxes.append(_box(corners, margin))
        names.append(name)
    return Scene(sheet.finished(), boxes, names)


def _placed(name: str, boxes: list[Corners], rng: np.random.Generator) -> list[Point] | None:
    """The corners of a shape at a free place, or None if none was found."""
    free = GAP + max(style.line_widths[1] for style in SCENE_STYLES.values()) / 2
    for _ in range(MOST_TRIES):
        radius, angle = rng.uniform(7, 11), rng.uniform(-0.2, 0.2)
        corners = corners_of(name, rng.uniform(radius, SCENE_SIZE - radius, 2), radius, angle)
        left, top, right, bottom = _box(corners, free)
        inside = min(left, top) >= 0 and max(right, bottom) <= SCENE_SIZE
        if inside and all(left >= r or right <= x or top >= b or bottom <= y for x, y, r, b in boxes):
            return corners
    return None


def _box(corners: list[Point], margin: float) -> Corners:
    """The box around corners, wider by a margin on each side."""
    xs, ys = zip(*corners)
    return tuple(map(float, (min(xs) - margin, min(ys) - margin, max(xs) + margin, max(ys) + margin)))
