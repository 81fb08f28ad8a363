"""Loads boxes from folders of text files in YOLO's format."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

from ..files import list_pictures, listed
from ..text_files import read_text
from .formats import from_centers
from .records import BadBoxes, Box, BoxData, Record, box_data


def load_yolo(data: str | os.PathLike, split: str = "train", bad_boxes: BadBoxes = "raise") -> BoxData:
    """
    Load boxes from YOLO's folders, as Ultralytics and Roboflow write them: a file such as data.yaml holds the names
    of the classes and the folders of the splits. The boxes of images/x.jpg are in labels/x.txt, a line for each: the
    number of the class, then center x and y, width and height, in parts of the picture. A picture without such a file,
    or with an empty one, shows no object.

    Args:
        data: the YAML file.
        split: a key of it, such as "train", "val" or "test".
        bad_boxes: "raise" an error that lists bad boxes, or "skip" them, with a remark for each (see `box_data`).

    Returns:
        The pictures with their boxes, sorted by path.

    Raises:
        ValueError: if a file or a folder is missing or malformed, or if a picture or a box is bad.
    """
    path = Path(data)
    content = _read(path)
    names = _names(content.get("names"), path)
    records = []
    for folder in _folders(content, split, path):
        pictures, _ = list_pictures(folder)
        labels = {picture: _label_file(picture) for picture in pictures}
        if pictures and not any(file.is_file() for file in labels.values()):
            raise ValueError(
                f"No picture of {folder} has a file of labels, such as {labels[pictures[0]]}. The folder 'labels' "
                "must lie beside the folder 'images'."
            )
        records += [_record(picture, file, names, path.parent) for picture, file in labels.items()]
    return box_data(f"{path.resolve().parent.name}/{split}", names, records, bad_boxes)


def yolo_splits(data: str | os.PathLike) -> list[str]:
    """
    List the splits of a data set in YOLO's format.

    Args:
        data: the YAML file.

    Returns:
        Those of "train", "val" and "test" for which it names a folder.

    Raises:
        ValueError: if the file is missing or malformed.
    """
    content = _read(Path(data))
    return [key for key in ("train", "val", "test") if content.get(key)]


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(read_text(path, "data"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}. Correct it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold the names of the classes and the folders of the splits.")
    return content


def _names(names: Any, path: Path) -> list[str]:
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path} needs 'names': a list of class names, or a dict of them by 0, 1, 2, ...")
    return [str(name) for name in names]


def _folders(content: dict[str, Any], split: str, path: Path) -> list[Path]:
    given = content.get(split)
    entries = given if isinstance(given, list) else [given]
    if not given or not all(isinstance(entry, str) for entry in entries):
        known = [key for key in ("train", "val", "test") if content.get(key)]
        raise ValueError(f"{path} names no folder for the split {split!r}. Splits found: {listed(known) or 'none'}.")
    root = path.parent / str(content.get("path") or "")
    folders = []
    for entry in entries:
        # Roboflow writes ../train/images for a folder that lies beside the file
        inside = PurePosixPath(*[part for part in PurePosixPath(entry).parts if part != ".."])
        found = next((own for own in (root / entry, path.parent / entry, path.parent / inside) if own.is_dir()), None)
        if found is None:
            raise ValueError(f"{path}: the folder of the split {split!r}, {root / entry}, is missing.")
        folders.append(found)
    return folders


def _label_file(picture: Path) -> Path:
    """Replace the last folder 'images' of the path by 'labels'."""
    parts = list(picture.with_suffix(".txt").parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts)


def _record(picture: Path, file: Path, names: list[str], folder: Path) -> Record:
    lines = read_text(file, "labels").splitlines() if file.is_file() else []
    boxes = [_box(line.split(), f"line {i}", names) for i, line in enumerate(lines, start=1) if line.strip()]
    return Record(str(picture), Path(os.path.relpath(picture, folder)).as_posix(), boxes)


def _box(words: list[str], number: str, names: list[str]) -> Box:
    label, *numbers = words
    category = names[int(label)] if label.isdigit() and int(label) < len(names) else f"number {label}"
    return Box(number, from_centers(numbers), category, relative=True)
