"""A data set with its splits, as every source of pictures returns it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from ...rules import normalized
from .options import DataOptions


if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_TEMPLATE = "a photo of a {}."


@dataclass(frozen=True)
class FewShotData:
    """
    A data set with its splits. Each split has the columns `image` (path or bytes, not decoded), `label` (int) and
    `item` (a string that identifies the picture in result files).

    Args:
        name: name of the data set.
        class_names: C names; the position of a name is its label.
        template: text of a class, with `{}` for the class name.
        train: the split from which training pictures are drawn.
        validation: the split from which validation pictures are drawn; None if there is none.
        test: the test pictures; None if a part of `train` must be held out.
        may_be_cropped: True if a part of a picture still shows its class, so that training may use random crops.
        origin: the options from which this data set was loaded. None is replaced by `DataOptions(dataset=name)`.
        groups: the number of the group of each training picture. If pictures are held out, those of one group are not
            separated. None: each picture is a group by itself.
        remarks: notes for the user about the data set, such as files that were left aside.

    Raises:
        ValueError: if `groups` does not hold a number for each training picture.
    """

    name: str
    class_names: list[str]
    template: str
    train: Dataset
    validation: Optional[Dataset] = None
    test: Optional[Dataset] = None
    may_be_cropped: bool = True
    origin: Optional[DataOptions] = None
    groups: Optional[Sequence[int]] = None
    remarks: Sequence[str] = ()

    def __post_init__(self):
        if self.origin is None:  # two data sets of other names are two experiments
            object.__setattr__(self, "origin", DataOptions(dataset=self.name))
        object.__setattr__(self, "class_names", [normalized(name) for name in self.class_names])
        if self.groups is not None and len(self.groups) != len(self.train):
            raise ValueError(f"{len(self.groups)} groups for {len(self.train)} training pictures; give one for each.")


def dataset_of_files(paths: list[str], labels: list[int], items: list[str]) -> Dataset:
    """
    Make a split of `FewShotData` from picture files. No file is opened.

    Args:
        paths: paths of N picture files.
        labels: their labels.
        items: strings that identify them in result files.

    Returns:
        The split.
    """
    from datasets import Dataset, Features, Image, Value

    features = Features({"image": Image(decode=False), "label": Value("int64"), "item": Value("string")})
    return Dataset.from_dict({"image": paths, "label": labels, "item": items}, features=features)


def with_labels(pictures: Dataset, labels: list[int], items: Optional[list[str]] = None) -> Dataset:
    """
    Replace the labels of pictures.

    Args:
        pictures: N examples with a column `label`.
        labels: N labels.
        items: N names for a new column `item`; None: no column is added.

    Returns:
        The pictures with the new columns.
    """
    pictures = pictures.remove_columns("label").add_column("label", labels)
    return pictures if items is None else pictures.add_column("item", items)
