"""Loads pictures from class folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ...rules import normalized
from .class_names import read_class_names
from .few_shot_data import DEFAULT_TEMPLATE, FewShotData, dataset_of_files
from .files import describe_left_aside, kind_of_file, list_pictures, listed, visible_entries
from .options import DataOptions
from .separation import Picture, keep_apart
from .split_file import read_split


# Names of folders that hold splits. If all folders have such names, class folders are probably inside them.
NAMES_OF_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def load_folders(
    train_dir: str | os.PathLike,
    test_dir: Optional[str | os.PathLike] = None,
    class_names: Optional[str | os.PathLike] = None,
    split: Optional[str | os.PathLike] = None,
) -> FewShotData:
    """
    Load pictures from class folders and their subfolders. The name of each class folder is the name of its class, with
    "_" for a space.

    A class folder of `test_dir` belongs to the class folder of `train_dir` with the same name. Two names are the same
    if they are equal in Unicode's form NFC. Equal files are kept on one side of every split (see `keep_apart`).

    Args:
        train_dir: the folder that holds the class folders.
        test_dir: a folder with class folders of test pictures; None: the test pictures are those of `split`, or else a
            part of each class of `train_dir` is held out.
        class_names: a file that names the classes (see `read_class_names`); None: all keep the names of their folders.
        split: a file that assigns the pictures to splits and groups (see `read_split`); None: no picture is assigned.

    Returns:
        The data set. Its remarks name the files that were left aside.

    Raises:
        ValueError: if a folder or a file is missing or malformed, `train_dir` has fewer than two classes, a class
            folder holds no picture, `test_dir` has a class that `train_dir` lacks, or no training picture of a class
            is left, because all are also test pictures.
    """
    given = {"train_dir": train_dir, "test_dir": test_dir, "class_names": class_names, "split": split}
    origin = DataOptions(**{name: None if value is None else os.fspath(value) for name, value in given.items()})
    tree = read_tree(Path(train_dir), "--train_dir")
    trees = [tree] if test_dir is None else [tree, read_tree(Path(test_dir), "--test_dir", tree.classes, least=1)]
    names, remarks_on_names = name_classes(tree.classes, class_names)
    remarks = remarks_on_files(trees, [class_names, split])
    parts, groups, remarks_on_equals = keep_apart(_parts(trees, split))
    _refuse_untrained(names, parts["train"])
    splits = {
        part: dataset_of_files(*map(list, zip(*((str(p.path), p.label, p.item) for p in pictures))))
        for part, pictures in parts.items()
        if pictures
    }
    return FewShotData(
        folder_name(Path(train_dir)),
        names,
        DEFAULT_TEMPLATE,
        splits["train"],
        splits.get("validation"),
        splits.get("test"),
        origin=origin,
        groups=groups,
        remarks=[*remarks, *remarks_on_names, *remarks_on_equals],
    )


def folder_name(train_dir: Path) -> str:
    """
    Name a data set after its folder.

    Args:
        train_dir: the folder of the training pictures.

    Returns:
        The name of the folder; for a folder "train" or "training", the name of its parent.
    """
    folder = train_dir.resolve()
    return folder.parent.name if folder.name in ("train", "training") else folder.name


@dataclass(frozen=True)
class Tree:
    """
    A folder that holds class folders.

    Args:
        classes: names of the classes, in NFC; the position of a name is its label.
        folders: the class folders.
        pictures: their pictures, in the order of the labels.
        left_aside: number of other files in the class folders, by kind (see `list_pictures`).
        beside: files beside the class folders.
    """

    classes: list[str]
    folders: list[Path]
    pictures: list[Picture]
    left_aside: Counter[str]
    beside: list[Path]


def read_tree(root: Path, flag: str, known: Optional[Sequence[str]] = None, least: int = 2) -> Tree:
    """
    List the pictures of class folders.

    Args:
        root: the folder that holds the class folders.
        flag: the flag that names it, for errors.
        known: the classes, in NFC and in the order of the labels; None: each class folder is a class.
        least: how many class folders there must be.

    Returns:
        The class folders and their files.

    Raises:
        ValueError: if the folder is missing or has a class that is not `known`, if there are fewer class folders than
            `least`, or if one holds no picture.
    """
    if not root.is_dir():
        raise ValueError(f"{flag} {root} is not a folder.")
    entries = visible_entries(root)
    folders = sorted((path for path in entries if path.is_dir()), key=_class_of)
    found = list(dict.fromkeys(map(_class_of, folders)))
    if len(found) < least:
        raise ValueError(
            f"{flag} must hold one folder of pictures per class, at least {least}; {root} holds {found or 'none'}."
        )
    if known is not None and (unknown := sorted(set(found) - set(known))):
        raise ValueError(f"{flag} {root} has classes that --train_dir lacks: {unknown[:5]}.")
    classes = found if known is None else list(known)
    labels = {name: label for label, name in enumerate(classes)}
    pictures, left_aside = [], Counter()
    for folder in folders:
        paths, others = list_pictures(folder)
        left_aside += others
        if not paths:
            but = f", but {describe_left_aside(others)}" if others else ""
            raise ValueError(f"The class folder {folder} holds no picture{but}. Fill it or remove it.")
        pictures += [Picture(path, labels[_class_of(folder)], path.relative_to(root).as_posix()) for path in paths]
    _refuse_splits(root, flag, found, pictures)
    return Tree(classes, folders, pictures, left_aside, [path for path in entries if not path.is_dir()])


def _class_of(folder: Path) -> str:
    return normalized(folder.name)


def _refuse_splits(root: Path, flag: str, classes: Sequence[str], pictures: Sequence[Picture]) -> None:
    if set(map(str.lower, classes)) <= NAMES_OF_SPLITS and all(picture.item.count("/") > 1 for picture in pictures):
        another = " and another as --test_dir" if flag == "--train_dir" else ""
        raise ValueError(
            f"The folders of {root} are named {listed(classes)}, and hold folders of pictures: they look like splits, "
            f"not like classes. Give one as {flag}{another}."
        )


def _parts(trees: Sequence[Tree], split: Optional[str | os.PathLike]) -> dict[str, list[Picture]]:
    """The pictures of each part, from the tree of the training pictures, that of the test pictures, and the file."""
    train, *test = trees
    parts = {"train": train.pictures} if split is None else {"train": [], **read_split(Path(split), train.pictures)}
    if test and "test" in parts:
        raise ValueError(f"--split {split} names test pictures, and so does --test_dir; give only one of them.")
    return {**parts, "test": test[0].pictures} if test else parts


def _refuse_untrained(names: Sequence[str], pictures: Sequence[Picture]) -> None:
    trained = {picture.label for picture in pictures}
    untrained = [name for label, name in enumerate(names) if label not in trained]
    if untrained:
        raise ValueError(
            f"No picture is left to train on of the classes {listed(untrained)}: all are test or validation pictures, "
            "or equal to one. Add other pictures."
        )


def name_classes(
    folders: Sequence[str], file: Optional[str | os.PathLike], may_name_others: bool = False
) -> tuple[list[str], list[str]]:
    """
    Name the classes of class folders.

    Args:
        folders: names of the class folders, in NFC.
        file: a file with names (see `read_class_names`); None: all keep the names of their folders.
        may_name_others: whether the file may also name folders that are not there.

    Returns:
        The name of each class, and remarks about them. A folder that the file does not name keeps its own name, with
        "_" for a space.

    Raises:
        ValueError: if the file cannot be used, or if a name holds no word.
    """
    given = {} if file is None else read_class_names(Path(file), folders, may_name_others)
    own = [folder for folder in folders if folder not in given]
    remark = f"classes that --class_names does not name, and that keep the names of their folders: {listed(own)}"
    names = [given.get(folder, folder.replace("_", " ")) for folder in folders]
    if unnamed := [folder for folder, name in zip(folders, names) if not name.strip()]:
        raise ValueError(
            f"The names of these class folders hold no word: {listed(list(map(repr, unnamed)))}. Rename them, or name "
            "their classes in a file (--class_names)."
        )
    return names, [remark] if given and own else []


def remarks_on_files(trees: Sequence[Tree], used: Sequence[Optional[str | os.PathLike]]) -> list[str]:
    """
    Say which files of class folders are no pictures, and are left aside.

    Args:
        trees: what `read_tree` returned.
        used: files beside the class folders that are not left aside; None is skipped.

    Returns:
        A remark for each kind of file; also one on folders that were taken as one class.
    """
    known = {os.path.realpath(file) for file in used if file is not None}
    left_aside = sum((tree.left_aside for tree in trees), Counter())
    beside = Counter(
        kind_of_file(path) for tree in trees for path in tree.beside if os.path.realpath(path) not in known
    )
    merged = [name for tree in trees for name, n in Counter(map(_class_of, tree.folders)).items() if n > 1]
    remarks = {
        "files left aside": describe_left_aside(left_aside),
        "files beside the class folders, left aside": describe_left_aside(beside),
        "folders whose names differ only in their Unicode form, taken as one class": listed(merged),
    }
    return [f"{what}: {which}" for what, which in remarks.items() if which]
