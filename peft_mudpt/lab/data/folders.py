"""Loads pictures from class folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from .coop import list_pictures
from .few_shot_data import DEFAULT_TEMPLATE, FewShotData, dataset_of_files
from .options import DataOptions


if TYPE_CHECKING:
    from datasets import Dataset


def load_folders(train_dir: str | os.PathLike, test_dir: Optional[str | os.PathLike] = None) -> FewShotData:
    """
    Load pictures from class folders. The name of each folder is the name of its class, with "_" for a space.

    Args:
        train_dir: the folder that holds the class folders.
        test_dir: a folder with class folders of test pictures; None: a part of each class of `train_dir` is held out.

    Returns:
        The data set.

    Raises:
        ValueError: if a folder is missing, `train_dir` has fewer than two classes, a class folder holds no picture, or
            `test_dir` has a class that `train_dir` lacks.
    """
    origin = DataOptions(train_dir=os.fspath(train_dir), test_dir=None if test_dir is None else os.fspath(test_dir))
    train_dir = Path(train_dir)
    classes = _class_folders(train_dir, "--train_dir")
    names = [name.replace("_", " ") for name in classes]

    def split(root: Path, folders: Sequence[str]) -> Dataset:
        examples = []
        for name in folders:
            pictures = list_pictures(root / name)
            if not pictures:
                raise ValueError(f"The class folder {root / name} holds no picture. Fill it or remove it.")
            examples += [(str(path), classes.index(name), str(path.relative_to(root))) for path in pictures]
        return dataset_of_files(*map(list, zip(*examples)))

    test = None
    if test_dir is not None:
        test_dir = Path(test_dir)
        folders = _class_folders(test_dir, "--test_dir")
        unknown = sorted(set(folders) - set(classes))
        if unknown:
            raise ValueError(f"--test_dir {test_dir} has classes that --train_dir {train_dir} lacks: {unknown[:5]}.")
        test = split(test_dir, folders)
    train = split(train_dir, classes)
    return FewShotData(folder_name(train_dir), names, DEFAULT_TEMPLATE, train, test=test, origin=origin)


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


def _class_folders(root: Path, flag: str) -> list[str]:
    if not root.is_dir():
        raise ValueError(f"{flag} {root} is not a folder.")
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    least = 2 if flag == "--train_dir" else 1
    if len(folders) < least:
        raise ValueError(
            f"{flag} must hold one folder of pictures per class, at least {least}; {root} holds {folders or 'none'}."
        )
    return folders
