"""Loads boxes from XML files in Pascal VOC's format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Optional
from xml.etree import ElementTree

from ..files import listed
from ..text_files import read_text
from .records import BadBoxes, Box, BoxData, Record, box_data


CORNERS = ("xmin", "ymin", "xmax", "ymax")


def load_voc(
    folder: str | os.PathLike,
    split: Optional[str] = None,
    class_names: Optional[Sequence[str]] = None,
    bad_boxes: BadBoxes = "raise",
) -> BoxData:
    """
    Load boxes from a folder in Pascal VOC's layout: Annotations/*.xml, JPEGImages/, ImageSets/Main/*.txt. Without such
    subfolders, the XML files and the pictures may lie in the folder itself.

    Coordinates are taken as they are written. Pascal VOC's own count pixels from 1; many tools count from 0. The
    difference is at most one pixel, as of any tool that reads both. Objects that are `difficult` are ignored.

    Args:
        folder: the folder.
        split: a list of pictures, such as "train", of ImageSets/Main; None: all annotated pictures.
        class_names: names of the classes, in the order of the labels; None: all names in the XML files of the folder,
            whatever the split, sorted.
        bad_boxes: "raise" an error that lists bad boxes, or "skip" them, with a remark for each (see `box_data`).

    Returns:
        The pictures with their boxes, sorted by name.

    Raises:
        ValueError: if a file is missing or malformed, or if a picture or a box is bad.
    """
    root = Path(folder)
    annotations = root / "Annotations" if (root / "Annotations").is_dir() else root
    files = {path.stem: path for path in sorted(annotations.glob("*.xml"))}
    if not files:
        raise ValueError(f"{annotations} holds no XML files. Give the folder that holds Annotations and JPEGImages.")
    stems = sorted(files) if split is None else _stems(root, split, files)
    trees = {stem: _parsed(files[stem]) for stem in (files if class_names is None else stems)}
    if class_names is None:
        class_names = sorted({_text(own, "name") for tree in trees.values() for own in tree.iter("object")})
    records = [_record(trees[stem], stem, root) for stem in stems]
    return box_data(
        root.resolve().name if split is None else f"{root.resolve().name}/{split}", class_names, records, bad_boxes
    )


def _stems(root: Path, split: str, files: dict[str, Path]) -> list[str]:
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        others = sorted(own.stem for own in path.parent.glob("*.txt"))
        raise ValueError(f"There is no split {split!r}: {path} is missing. Splits found: {listed(others) or 'none'}.")
    stems = sorted({line.split()[0] for line in read_text(path, "split").splitlines() if line.strip()})
    missing = [stem for stem in stems if stem not in files]
    if missing:
        raise ValueError(f"{path} lists pictures without an XML file: {listed(missing)}. Remove or annotate them.")
    return stems


def _parsed(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"{path} cannot be read as XML: {error}. Correct or remove it.") from error


def _text(element: ElementTree.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _record(tree: ElementTree.Element, stem: str, root: Path) -> Record:
    file = _text(tree, "filename") or f"{stem}.jpg"
    folder = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root
    boxes = [
        Box(
            f"object {i}",
            [_text(own, f"bndbox/{corner}") for corner in CORNERS],
            _text(own, "name"),
            ignored=_text(own, "difficult") == "1",
        )
        for i, own in enumerate(tree.iter("object"))
    ]
    size = tuple(_text(tree, f"size/{side}") for side in ("width", "height"))
    drawn_for = (int(size[0]), int(size[1])) if all(side.isdigit() and int(side) for side in size) else None
    return Record(str(_picture(folder, file, stem)), stem, boxes, drawn_for)


def _picture(folder: Path, file: str, stem: str) -> Path:
    """The picture of an XML file: tools that rename files often leave the old name in it."""
    named = folder / Path(file).name
    if named.is_file() and named.stem == stem:
        return named
    return next((path for path in sorted(folder.glob(f"{stem}.*")) if path.suffix.lower() != ".xml"), named)
