"""Loads labeled pictures on which a finished classifier is tested."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from ...rules import normalized
from .few_shot_data import dataset_of_files
from .files import listed
from .folders import name_classes, read_tree, remarks_on_files


if TYPE_CHECKING:
    from datasets import Dataset

FOLDER = "FOLDER"  # what `examples/evaluate.py` calls the folder of pictures


def load_labeled(
    folder: str | os.PathLike, class_names: Sequence[str], names_file: Optional[str | os.PathLike] = None
) -> tuple[Dataset, list[str]]:
    """
    Load pictures from class folders, which are named as those of training (see `load_folders`).

    Args:
        folder: the folder that holds the class folders. It may lack some of the classes.
        class_names: names of the classes that the classifier knows; the position of a name is its label.
        names_file: a file that names the class folders (see `read_class_names`), such as that of training, which may
            also name others; None: their own names are used.

    Returns:
        The pictures, with the columns `image`, `label` and `item`, and remarks for the user about them.

    Raises:
        ValueError: if the folder or the file cannot be used, if a class folder belongs to none of the classes, or to
            several that share a name.
    """
    tree = read_tree(Path(folder), FOLDER, least=1)
    names, remarks = name_classes(tree.classes, names_file, may_name_others=True)
    known = list(map(normalized, class_names))
    times = Counter(known)
    unknown = [name for name in names if name not in times]
    if unknown:
        raise ValueError(
            f"{FOLDER} {folder} has classes that the classifier does not know: {listed(unknown)}. It knows "
            f"{listed(known)}. Name the folders in a file (--class_names), leave other folders out, or give other "
            "classes (--classes)."
        )
    shared = [name for name in dict.fromkeys(names) if times[name] > 1]
    if shared:
        raise ValueError(
            f"Several classes of the classifier are named {listed(shared)}, so that the pictures of these folders "
            "belong to none of them. Leave the folders out."
        )
    folders = Counter(names)
    merged = [name for name, number in folders.items() if number > 1]
    remarks += [f"classes that have several folders: {listed(merged)}"] if merged else []
    absent = [name for name in known if name not in folders]
    remarks += [f"classes without pictures, which can still be predicted: {listed(absent)}"] if absent else []
    label_of = {name: label for label, name in enumerate(known)}
    labels = [label_of[names[picture.label]] for picture in tree.pictures]
    paths, items = zip(*((str(picture.path), picture.item) for picture in tree.pictures))
    return dataset_of_files(list(paths), labels, list(items)), [*remarks_on_files([tree], [names_file]), *remarks]
