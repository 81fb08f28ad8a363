"""Finds the format and the splits of a folder of pictures with boxes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .coco import load_coco_json
from .records import BoxData
from .voc import load_voc
from .yolo import load_yolo, yolo_splits


Load = Callable[..., BoxData]  # takes `bad_boxes`
WHOLE = ""  # the name under which a folder without splits is listed
COCO_OF_ROBOFLOW = "_annotations.coco.json"


def box_splits(folder: Path) -> dict[str, Load]:
    """
    Find the splits of a folder. It may have one of these layouts:

    - YOLO: a file data.yaml that names the folders of the splits;
    - Pascal VOC: ImageSets/Main/SPLIT.txt beside Annotations/ and JPEGImages/;
    - COCO: annotations/instances_SPLIT.json beside the folders of pictures, SPLIT/;
    - Roboflow: a folder for each split, which holds its pictures and the file of COCO or the XML files of Pascal VOC;
    - a folder without splits, which holds its pictures and one JSON file of COCO, or XML files of Pascal VOC.

    Args:
        folder: the folder.

    Returns:
        Functions that load the splits, by name; only `WHOLE` if the folder has no splits.

    Raises:
        ValueError: if the folder has none of these layouts.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Give a folder of pictures with boxes.")
    if (folder / "data.yaml").is_file():
        return {split: partial(load_yolo, folder / "data.yaml", split) for split in yolo_splits(folder / "data.yaml")}
    lists = sorted((folder / "ImageSets" / "Main").glob("*.txt"))
    if lists:
        return {file.stem: partial(load_voc, folder, file.stem) for file in lists}
    instances = sorted((folder / "annotations").glob("instances_*.json"))
    if instances:
        names = {file: file.stem.removeprefix("instances_") for file in instances}
        return {name: partial(load_coco_json, file, folder / name) for file, name in names.items()}
    inside = {path.name: _without_splits(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    splits: dict[str, Any] = {name: load for name, load in inside.items() if load is not None}
    alone = _without_splits(folder)
    if splits and (alone is None or "train" in splits):
        return splits
    if alone is not None:
        return {WHOLE: alone}
    raise ValueError(
        f"{folder} holds no boxes: neither data.yaml (YOLO), nor XML files (Pascal VOC), nor one JSON file (COCO), "
        "also not in its folders. docs/adapt_a_detector.md shows the layouts."
    )


def _without_splits(folder: Path) -> Load | None:
    """The function that loads all boxes of a folder; None if it holds none."""
    files = sorted(folder.glob("*.json"))
    if (folder / COCO_OF_ROBOFLOW).is_file():
        return partial(load_coco_json, folder / COCO_OF_ROBOFLOW)
    if (folder / "Annotations").is_dir() or next(folder.glob("*.xml"), None) is not None:
        return partial(load_voc, folder, None)
    return partial(load_coco_json, files[0]) if len(files) == 1 else None
