"""Pictures in CoOp's folder layout, with its published splits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .catalogue import CATALOGUE, CLASS_NAMES_FILE, DataSet


# A picture: its path under the folder of pictures, its label, its class name.
Item = tuple[str, int, str]
SPLITS = ("train", "val", "test")


def read_coop(root: Path, name: str) -> tuple[Path, dict[str, list[Item]]]:
    """
    The items of a data set of CoOp's, as its published code reads them.

    Args:
        root: the folder that holds CoOp's data sets.
        name: one of `CATALOGUE`.

    Returns:
        The folder of the pictures, and its items by split: "train", "val" and "test", each in the published order,
        each possibly empty. Class names are clean: words between spaces.

    Raises:
        ValueError: if there is no such data set, its files are not there or not in CoOp's form, or pictures are
            missing.
    """
    if name not in CATALOGUE:
        raise ValueError(f"There is no data set {name!r} in CoOp's layout; there are {', '.join(CATALOGUE)}.")
    data_set = CATALOGUE[name]
    folder = Path(root) / data_set.folder
    images = folder / data_set.images
    if not images.is_dir():
        raise ValueError(f"--coop_root {root} does not hold {name}: {images} is no folder.")
    read = {"split": _read_split, "variants": _read_variants, "class_folders": _read_class_folders}[data_set.layout]
    splits = {
        split: [(path, label, class_name.replace("_", " ")) for path, label, class_name in items]
        for split, items in read(data_set, folder, images).items()
    }
    if data_set.layout != "class_folders":  # whose pictures were found by looking
        _refuse_missing(images, [item[0] for items in splits.values() for item in items], name)
    return images, splits


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path} is missing; CoOp's DATASETS.md says where to get it.")
    return path.read_text(encoding="utf-8")


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    """Lines of a word and a name."""
    pairs = [tuple(line.split(maxsplit=1)) for line in _read_text(path).strip().splitlines()]
    wrong = [number for number, pair in enumerate(pairs, start=1) if len(pair) != 2]
    if wrong:
        raise ValueError(f"{path} must hold a word and a name per line; line {wrong[0]} does not.")
    return pairs


def _read_split(data_set: DataSet, folder: Path, images: Path) -> dict[str, list[Item]]:
    path = folder / data_set.split
    try:
        content = json.loads(_read_text(path))
        return {split: [(str(p), int(label), str(name)) for p, label, name in content[split]] for split in SPLITS}
    except (ValueError, KeyError, TypeError) as error:  # no JSON, or rows of another form
        raise ValueError(
            f"{path} is no split file: it must hold lists of [path, label, class] for {SPLITS}."
        ) from error


def _read_variants(data_set: DataSet, folder: Path, images: Path) -> dict[str, list[Item]]:
    """FGVC Aircraft: the names of the variants, and per split a line "picture variant" for each picture."""
    labels = {name: label for label, name in enumerate(_read_text(folder / "variants.txt").strip().splitlines())}
    splits = {}
    for split in SPLITS:
        path = folder / f"images_variant_{split}.txt"
        lines = _read_pairs(path)
        unknown = sorted({name for _, name in lines} - labels.keys())
        if unknown:
            raise ValueError(f"{path} names variants that variants.txt does not: {unknown[:3]}.")
        splits[split] = [(f"{picture}.jpg", labels[name], name) for picture, name in lines]
    return splits


def _read_class_folders(data_set: DataSet, folder: Path, images: Path) -> dict[str, list[Item]]:
    """ImageNet and its variants: a folder per class, its pictures sorted (CoOp takes them as the disk lists them)."""
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
                    f"{folder / CLASS_NAMES_FILE} has no name for the class {key} of {images / subfolder}."
                )
            pictures = list_pictures(images / subfolder / str(key))
            splits[split] += [(str(path.relative_to(images)), label, names[key]) for path in pictures]
    return splits


def list_pictures(folder: Path) -> list[Path]:
    """The files directly in `folder` that are called like pictures, sorted."""
    from PIL import Image

    suffixes = Image.registered_extensions()
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def _refuse_missing(images: Path, paths: Sequence[str], name: str) -> None:
    # a data set that was downloaded shall not name files of its reader
    elsewhere = [path for path in paths if Path(path).is_absolute() or ".." in Path(path).parts]
    if elsewhere:
        raise ValueError(
            f"The split of {name} leads out of {images}: {elsewhere[0]!r}. Take its files from a source you trust."
        )
    missing = [path for path in paths if not (images / path).is_file()]
    if missing:
        first = ", ".join(missing[:3])
        raise ValueError(
            f"{len(missing):,} of the {len(paths):,} pictures in the split of {name} are not under {images}: {first}"
            f"{', ...' if len(missing) > 3 else ''}. Unpack the data set there once more."
        )


def class_names_by_label(items: Sequence[Item]) -> list[str]:
    """
    The class name of every label.

    Raises:
        ValueError: if a label has two names, or labels are not 0..C-1.
    """
    names: dict[int, str] = {}
    for path, label, name in items:
        known = names.setdefault(label, name)
        if known != name:
            raise ValueError(f"Label {label} is called {known!r} and, at {path}, {name!r}.")
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"Labels must be 0..{len(names) - 1}; they go up to {max(names)}.")
    return [names[label] for label in range(len(names))]
