"""Loads boxes from data sets of the Hub that have a column of objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

from ....rules import one_of
from ..folders import folder_name
from .formats import FORMATS
from .records import BadBoxes, Box, BoxData, Record, box_data


if TYPE_CHECKING:
    from datasets import Dataset

BoxFormat = Literal["coco", "pascal_voc", "yolo"]


def load_boxes_from_hub(
    dataset_name: str, config_name: Optional[str] = None, split: str = "train", **options: Any
) -> BoxData:
    """
    Load a data set of the Hub, or any other that `datasets.load_dataset` knows.

    Args:
        dataset_name: Hub id, or another first argument of `load_dataset`.
        config_name: configuration of the data set.
        split: name of the split.
        options: those of `boxes_from_dataset`.

    Returns:
        The pictures with their boxes, in the order of the split.

    Raises:
        ValueError: see `boxes_from_dataset`.
    """
    from datasets import load_dataset

    pictures = load_dataset(dataset_name, config_name, split=split)
    return boxes_from_dataset(pictures, f"{name_of_dataset(dataset_name)}/{split}", **options)


def name_of_dataset(dataset_name: str) -> str:
    """
    Name a data set in results, which may be uploaded.

    Args:
        dataset_name: Hub id, or a folder.

    Returns:
        The Hub id, or the name of the folder without its path.
    """
    return folder_name(Path(dataset_name)) if Path(dataset_name).exists() else dataset_name


def boxes_from_dataset(
    pictures: Dataset,
    name: str = "data",
    image_column: str = "image",
    objects_column: str = "objects",
    box_field: str = "bbox",
    category_field: str = "category",
    box_format: BoxFormat = "coco",
    class_names: Optional[Sequence[str]] = None,
    bad_boxes: BadBoxes = "raise",
) -> BoxData:
    """
    Take boxes from a column of objects, as transformers' examples of object detection do: each is a dict of lists, or
    a list of dicts, that hold boxes and categories.

    Args:
        pictures: the data set.
        name: its name in messages.
        image_column: column that holds the pictures.
        objects_column: column that holds the objects.
        box_field: the field of the objects that holds the box.
        category_field: the field of the objects that holds the category, a number or a name.
        box_format: "coco": left, top, width and height in pixels; "pascal_voc": left, top, right and bottom in pixels;
            "yolo": center x and y, width and height in parts of the picture.
        class_names: names of the classes, in the order of the numbers in the category field; None: those of its
            `ClassLabel`.
        bad_boxes: "raise" an error that lists bad boxes, or "skip" them, with a remark for each (see `box_data`).

    Returns:
        The pictures with their boxes, in the order of the data set.

    Raises:
        ValueError: if a column, a field or the names of the classes are missing, or if a picture or a box is bad.
    """
    from datasets import Image

    one_of(*FORMATS).check(box_format, "box_format")
    features = pictures.features
    for column in (image_column, objects_column):
        if column not in features:
            raise ValueError(f"{name} has no column {column!r}. Columns found: {', '.join(features)}.")
    if not isinstance(features[image_column], Image):
        raise ValueError(f"The column {image_column!r} of {name} does not hold pictures: {features[image_column]!r}.")
    fields = _fields(features[objects_column])
    for own in (box_field, category_field):
        if own not in fields:
            raise ValueError(f"The objects of {name} have no field {own!r}. Fields found: {', '.join(fields)}.")
    names = class_names or getattr(fields[category_field], "names", None)
    if not names:
        raise ValueError(f"The field {category_field!r} of {name} is no ClassLabel, so give class_names.")
    names = [str(own) for own in names]
    converted = FORMATS[box_format]
    records = []
    for i, example in enumerate(pictures.cast_column(image_column, Image(decode=False))):
        boxes, categories = _lists(example[objects_column], box_field, category_field)
        if len(boxes) != len(categories):
            raise ValueError(f"Picture {i} of {name} has {len(boxes)} boxes, but {len(categories)} categories.")
        own = [
            Box(f"object {j}", converted(box), _category(category, names), relative=box_format == "yolo")
            for j, (box, category) in enumerate(zip(boxes, categories))
        ]
        records.append(Record(example[image_column], f"{name}[{i}]", own))
    return box_data(name, names, records, bad_boxes)


def _fields(feature: Any) -> dict[str, Any]:
    """The features of one object, of a dict of lists or a list of dicts."""
    if not isinstance(feature, dict):
        feature = getattr(feature, "feature", {})
    return {key: getattr(own, "feature", own) for key, own in dict(feature).items()}


def _lists(objects: Any, *keys: str) -> list[list[Any]]:
    if objects is None:
        return [[] for _ in keys]
    if isinstance(objects, dict):
        return [list(objects[key] or []) for key in keys]
    return [[own[key] for own in objects] for key in keys]


def _category(category: Any, names: list[str]) -> Any:
    if isinstance(category, int) and 0 <= category < len(names):
        return names[category]
    return category if isinstance(category, str) else f"number {category}"
