"""Loads the embedded world for detection: drawn scenes, see `demo`."""

from __future__ import annotations

from .... import demo
from .records import BoxData


def load_embedded_boxes(style: str, number: int, seed: int) -> BoxData:
    """
    Draw scenes with boxes.

    Args:
        style: one of `demo.SCENE_STYLES`.
        number: number of scenes.
        seed: seed of the random numbers.

    Returns:
        The scenes with their boxes.

    Raises:
        ValueError: if the style is unknown or the number is not at least 1.
    """
    return BoxData(style, list(demo.SCENE_CLASSES), demo.load_scenes(style, number, seed))
