"""Loads labeled pictures on which a finished classifier is tested."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from ...rules import normalized
from ..similar import did_you_mean
from .few_shot_data import dataset_of_files
from .files import listed
from .folders import Tree, name_classes, read_tree, remarks_on_files


if TYPE_CHECKING:
    from datasets import Dataset

FOLDER = "FOLDER"  # what `peft-mudpt evaluate` calls the folder of pictures


@dataclass(frozen=True)
class LabeledFolder:
    """
    Pictures in class folders, which are named as those of training (see `load_folders`).

    Args:
        folder: the folder that holds the class folders.
        names_file: a file that names the class folders; None: their own names are used.
        tree: the class folders and their files.
        names: the names of the class folders.
        remarks: what the user should know about the names.
    """

    folder: str | os.PathLike
    names_file: Optional[str | os.PathLike]
    tree: Tree
    names: Sequence[str]
    remarks: Sequence[str]

    @classmethod
    def read(cls, folder: str | os.PathLike, names_file: Optional[str | os.PathLike] = None) -> LabeledFolder:
        """
        List the class folders and their pictures.

        Args:
            folder: the folder. It may lack some of the classes of a classifier.
            names_file: a file that names the class folders (see `read_class_names`), such as that of training, which
                may also name others; None: their own names are used.

        Raises:
            ValueError: if the folder or the file cannot be used.
        """
        tree = read_tree(Path(folder), FOLDER, least=1)
        return cls(folder, names_file, tree, *name_classes(tree.classes, names_file, may_name_others=True))

    def labeled(self, class_names: Sequence[str]) -> tuple[Dataset, list[str]]:
        """
        Label the pictures by the classes of a classifier.

        Args:
            class_names: names of the classes that the classifier knows; the position of a name is its label.

        Returns:
            The pictures, with the columns `image`, `label` and `item`, and remarks for the user about them.

        Raises:
            ValueError: if a class folder belongs to none of the classes, or to several that share a name.
        """
        known = list(map(normalized, class_names))
        times = Counter(known)
        unknown = [name for name in self.names if name not in times]
        if unknown:
            question = did_you_mean(unknown, known)
            hint = f"{question} " if question else ""
            raise ValueError(
                f"{FOLDER} {self.folder} has classes that the classifier does not know: {listed(unknown)}. "
                f"{hint}It knows {listed(known)}. Name the folders in a file (--class_names), leave other folders "
                "out, or give other classes (--classes)."
            )
        shared = [name for name in dict.fromkeys(self.names) if times[name] > 1]
        if shared:
            raise ValueError(
                f"Several classes of the classifier are named {listed(shared)}, so that the pictures of these folders "
                "belong to none of them. Leave the folders out."
            )
        folders = Counter(self.names)
        merged = [name for name, number in folders.items() if number > 1]
        absent = [name for name in known if name not in folders]
        remarks = {
            "classes that have several folders": merged,
            "classes without pictures, which can still be predicted": absent,
        }
        label_of = {name: label for label, name in enumerate(known)}
        labels = [label_of[self.names[picture.label]] for picture in self.tree.pictures]
        paths, items = zip(*((str(picture.path), picture.item) for picture in self.tree.pictures))
        return dataset_of_files(list(paths), labels, list(items)), [
            *remarks_on_files([self.tree], [self.names_file]),
            *self.remarks,
            *(f"{what}: {listed(which)}" for what, which in remarks.items() if which),
        ]
