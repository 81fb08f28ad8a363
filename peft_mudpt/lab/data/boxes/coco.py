"""Loads boxes from a JSON file in COCO's format."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, Optional

from .formats import from_sizes
from .records import BadBoxes, Box, BoxData, Record, box_data


KEYS = ("images", "annotations", "categories")


def load_coco_json(
    annotations: str | os.PathLike, pictures: Optional[str | os.PathLike] = None, bad_boxes: BadBoxes = "raise"
) -> BoxData:
    """
    Load boxes from a JSON file in COCO's format (arXiv 1405.0312; cocodataset.org, "Data format").

    The classes are the categories in the order of their ids, without those that have no boxes and are the
    `supercategory` of another one; the pictures are in the order of their ids. A picture
    without annotations shows no object. Crowds (`iscrowd`) are ignored.

    Args:
        annotations: the file.
        pictures: the folder of the pictures; None: the folder of the file.
        bad_boxes: "raise" an error that lists bad boxes, or "skip" them, with a remark for each (see `box_data`).

    Returns:
        The pictures with their boxes.

    Raises:
        ValueError: if the file is not in this format, if ids are not unique or unknown, or if a picture or a box is
            bad.
    """
    path = Path(annotations)
    folder = path.parent if pictures is None else Path(pictures)
    content = _read(path)
    categories = _by_id(content["categories"], "categories", path)
    images = _by_id(content["images"], "images", path)
    boxes = defaultdict(list)
    for i, own in enumerate(content["annotations"]):
        if not isinstance(own, dict) or not _is_key(own.get("image_id"), images):
            raise ValueError(f"{path}: annotation {i} is of no picture in 'images': {short_repr(own)}. Correct it.")
        boxes[own["image_id"]].append(_box(own, f"annotation {own.get('id', i)}", categories))
    records = [_record(images[key], folder, boxes[key]) for key in sorted(images)]
    names = [categories[key].get("name") for key in sorted(categories) if not _is_only_a_parent(key, content)]
    return box_data(path.stem, names, records, bad_boxes)


def _is_only_a_parent(key: int, content: dict[str, list[Any]]) -> bool:
    """True for a category without boxes that only groups others: Roboflow's exports have one for the project."""
    own = next(category for category in content["categories"] if category["id"] == key)
    others = [category.get("supercategory") for category in content["categories"] if category is not own]
    return own.get("name") in others and all(box.get("category_id") != key for box in content["annotations"])


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))  # NaN, too, which Python writes and JSON does not have
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}. Give a file in COCO's format.") from error
    missing = [key for key in KEYS if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise ValueError(f"{path} has no list {missing[0]!r}. Give a file in COCO's format, with {', '.join(KEYS)}.")
    return content


def _by_id(entries: list[Any], kind: str, path: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for entry in entries:
        key = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(key, int) or key in found:
            raise ValueError(
                f"{path}: each of {kind!r} needs a whole number of its own as id; found {short_repr(entry)}."
            )
        found[key] = entry
    return found


def _is_key(value: Any, entries: dict[int, Any]) -> bool:
    return isinstance(value, int) and value in entries


def _box(own: dict[str, Any], number: str, categories: dict[int, dict[str, Any]]) -> Box:
    key = own.get("category_id")
    category = categories[key].get("name") if _is_key(key, categories) else key
    return Box(number, from_sizes(own.get("bbox")), category, ignored=bool(own.get("iscrowd")))


def _record(image: dict[str, Any], folder: Path, boxes: list[Box]) -> Record:
    file, size = str(image.get("file_name", "")), (image.get("width"), image.get("height"))
    return Record(str(folder / file), file, boxes, size if all(size) else None)
