"""Reads data sets in CoOp's folder layout, with the splits that CoOp published."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from .catalogue import CATALOGUE, CLASS_NAMES_FILE, DataSet
from .few_shot_data import FewShotData, dataset_of_files
from .files import list_pictures
from .options import DataOptions


if TYPE_CHECKING:
    from datasets import Dataset


# A picture of a split: its path relative to the folder of pictures, its label, its class name.
Item = tuple[str, int, str]
SPLITS = ("train", "val", "test")


def read_coop(root: Path, name: str) -> tuple[Path, dict[str, list[Item]]]:
    """
    Read the splits of one of CoOp's data sets, in the order of CoOp's published code.

    Args:
        root: the folder that holds CoOp's data sets.
        name: one of `CATALOGUE`.

    Returns:
        The folder of the pictures, and the items of the splits "train", "val" and "test" in the published order. An
        item is (path relative to that folder, label, class name). A split may be empty. Underscores in class names
        are replaced by spaces.

    Raises:
        ValueError: if the data set is unknown, a file is missing or malformed, or pictures are missing.
    """
    if name not in CATALOGUE:
        raise ValueError(f"Unknown data set {name!r} in CoOp's layout; the known ones are {', '.join(CATALOGUE)}.")
    data_set = CATALOGUE[name]
    folder = Path(root) / data_set.folder
    images = folder / data_set.images
    if not images.is_dir():
        raise ValueError(f"--coop_root {root} does not hold {name}: the folder {images} is missing.")
    read = {"split": _read_split, "variants": _read_variants, "class_folders": _read_class_folders}[data_set.layout]
    splits = {
        split: [(path, label, class_name.replace("_", " ")) for path, label, class_name in items]
        for split, items in read(data_set, folder, images).items()
    }
    if data_set.layout != "class_folders":  # class folders were listed, so their pictures exist
        _refuse_missing(images, [item[0] for items in splits.values() for item in items], name)
    return images, splits


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path} is missing; CoOp's DATASETS.md says where to download it.")
    return path.read_text(encoding="utf-8")


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    """Read a file whose lines hold a key and a name, separated by whitespace."""
    pairs = [tuple(line.split(maxsplit=1)) for line in _read_text(path).strip().splitlines()]
    wrong = [number for number, pair in enumerate(pairs, start=1) if len(pair) != 2]
    if wrong:
        raise ValueError(f"{path} must hold a key and a name on each line; line {wrong[0]} does not.")
    return pairs


def _read_split(data_set: DataSet, folder: Path, images: Path) -> dict[str, list[Item]]:
    path = folder / data_set.split
    try:
        content = json.loads(_read_text(path))
        return {split: [(str(p), int(label), str(name)) for p, label, name in content[split]] for split in SPLITS}
    except (ValueError, KeyError, TypeError) as error:  # not JSON, or malformed items
        raise ValueError(
            f"{path} is not a split file: it must hold lists of [path, label, class] for {SPLITS}."
        ) from error


def _read_variants(data_set: DataSet, folder: Path, images: Path) -> dict[str, list[Item]]:
    """Read FGVC Aircraft: a list of variants, and per split a list with one line "picture variant" per picture."""
    labels = {name: label for label, name in enumerate(_read_text(folder / "variants.txt").strip().splitlines())}
    splits = {}
    for split in SPLITS:
        path = folder / f"images_variant_{split}.txt"
        lines = _read_pairs(path)
        unknown = sorted({name for _, name in lines} - labels.keys())
        if unknown:
            raise ValueError(f"{path} names variants that variants.txt does not contain: {unknown[:3]}.")
        splits[split] = [(f"{picture}.jpg", labels[name], name) for picture, name in lines]
    return splits


def _read_class_folders(data_set: DataSet, folder: Path, images: Path) -> dict[str, list[Item]]:
    """Read ImageNet or a variant: one folder per class. Pictures are sorted; CoOp keeps the file system's order."""
    lines = _read_pairs(folder / CLASS_NAMES_FILE)
    names = dict(enumerate(name for _, name in lines)) if data_set.folders_are_labels else dict(lines)
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for split, subfolder in zip(("train", "test"), data_set.splits):
        if subfolder is None:
            continue
        classes = sorted(path.name for path in (images / subfolder).iterdir() if path.is_dir())
        keys = sorted(map(int, classes)) if data_set.folders_are_labels else classes
        for label, key in enumerate(keys):
            if key not in names:
                raise ValueError(
                    f"{folder / CLASS_NAMES_FILE} has no name for the class folder {images / subfolder / str(key)}."
                )
            pictures, _ = list_pictures(images / subfolder / str(key))
            splits[split] += [(str(path.relative_to(images)), label, names[key]) for path in pictures]
    return splits


def _refuse_missing(images: Path, paths: Sequence[str], name: str) -> None:
    # a downloaded split must not name other files of this machine
    outside = [path for path in paths if Path(path).is_absolute() or ".." in Path(path).parts]
    if outside:
        raise ValueError(
            f"The split of {name} names a file outside of {images}: {outside[0]!r}. Download it from a trusted source."
        )
    missing = [path for path in paths if not (images / path).is_file()]
    if missing:
        first = ", ".join(missing[:3])
        raise ValueError(
            f"{len(missing):,} of the {len(paths):,} pictures in the split of {name} are missing in {images}: {first}"
            f"{', ...' if len(missing) > 3 else ''}. Unpack the data set there again."
        )


def class_names_by_label(items: Sequence[Item]) -> list[str]:
    """
    Collect the class names of a data set.

    Args:
        items: (path, label, class name) of every picture in all splits.

    Returns:
        C class names; the position of a name is its label.

    Raises:
        ValueError: if a label has two names, or the labels are not 0..C-1.
    """
    names: dict[int, str] = {}
    for path, label, name in items:
        known = names.setdefault(label, name)
        if known != name:
            raise ValueError(f"Label {label} has two class names: {known!r} and, for {path}, {name!r}.")
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"The labels of {len(names)} classes must be 0..{len(names) - 1}; found {max(names)}.")
    return [names[label] for label in range(len(names))]


def load_coop(root: Path, name: str) -> FewShotData:
    """
    Load one of CoOp's data sets, or a variant of ImageNet.

    Args:
        root: the folder that holds CoOp's data sets.
        name: one of `CATALOGUE`.

    Returns:
        The data set.

    Raises:
        ValueError: if the data set cannot be read (see `read_coop`), or its labels are inconsistent.
    """
    images, splits = read_coop(root, name)
    class_names = class_names_by_label([item for items in splits.values() for item in items])

    def split(items: list) -> Optional[Dataset]:
        if not items:
            return None
        paths, labels, _ = map(list, zip(*items))
        return dataset_of_files([str(images / path) for path in paths], labels, paths)

    train, validation, test = (split(splits[part]) for part in ("train", "val", "test"))
    origin = DataOptions(dataset=name, coop_root=os.fspath(root))
    return FewShotData(name, class_names, CATALOGUE[name].template, train, validation, test, origin=origin)
