"""The formats in which sources write a box, by the names that tools give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def from_sizes(box: Any) -> list[Any]:
    """
    Convert a box of COCO's format to corners.

    Args:
        box: left, top, width and height.

    Returns:
        Left, top, right and bottom; what is no four numbers stays as it is, to be named later.
    """
    if not _is_box(box):
        return _as_list(box)
    left, top, width, height = map(float, box)
    return [left, top, left + width, top + height]


def from_centers(box: Any) -> list[Any]:
    """
    Convert a box of YOLO's format to corners.

    Args:
        box: center x and y, width and height.

    Returns:
        Left, top, right and bottom; what is no four numbers stays as it is, to be named later.
    """
    if not _is_box(box):
        return _as_list(box)
    x, y, width, height = map(float, box)
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def _is_box(box: Any) -> bool:
    try:
        return len(list(map(float, box))) == 4
    except (TypeError, ValueError):
        return False


def _as_list(box: Any) -> list[Any]:
    return list(box) if isinstance(box, (list, tuple)) else [box]


# The numbers are pixels, but those of YOLO are parts of the picture.
FORMATS: dict[str, Callable[[Any], list[Any]]] = {
    "coco": from_sizes,
    "pascal_voc": _as_list,
    "yolo": from_centers,
}
