"""Loads a data set of the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Optional

from .few_shot_data import DEFAULT_TEMPLATE, FewShotData, with_labels
from .folders import folder_name
from .options import DataOptions


if TYPE_CHECKING:
    from datasets import Dataset


def load_from_hub(
    dataset_name: str, config_name: Optional[str] = None, image_column: str = "image", label_column: str = "label"
) -> FewShotData:
    """
    Load a data set of the Hub, or any other that `datasets.load_dataset` knows.

    The splits validation and test are optional. If test is missing or has no labels, validation is used for testing.

    Args:
        dataset_name: Hub id, or another first argument of `load_dataset`.
        config_name: configuration of the data set.
        image_column: column that holds the pictures.
        label_column: column that holds the labels, a `ClassLabel`.

    Returns:
        The data set.

    Raises:
        ValueError: if a column or the training split is missing, or if the labels are not a `ClassLabel`.
    """
    from datasets import ClassLabel, Image, load_dataset

    splits = load_dataset(dataset_name, config_name)
    if "train" not in splits:
        raise ValueError(f"--dataset_name {dataset_name} must have a split 'train'; it has {list(splits)}.")
    features = splits["train"].features
    found = "Columns found: " + ", ".join(f"{column} ({kind!r})" for column, kind in features.items())
    for kind, column in (("image", image_column), ("label", label_column)):
        if column not in features:
            raise ValueError(f"{dataset_name} has no column {column!r}; give --{kind}_column. {found}")
    label_feature = features[label_column]
    if not isinstance(features[image_column], Image):
        raise ValueError(f"The column {image_column!r} does not hold pictures. {found}")
    if not isinstance(label_feature, ClassLabel):
        raise ValueError(
            f"The column {label_column!r} must be a ClassLabel, because that holds the names of the classes. "
            f"`dataset.class_encode_column({label_column!r})` converts a column of strings. {found}"
        )

    def split(*names: str) -> Optional[Dataset]:
        name = next((name for name in names if name in splits), None)
        if name is None:
            return None
        pictures = splits[name].select_columns([image_column, label_column])
        pictures = pictures.rename_columns({image_column: "image", label_column: "label"})
        labels = pictures["label"][:]
        if name == "test" and all(label is None or label < 0 for label in labels):
            return None  # competitions publish test splits without labels
        if any(label is None or label < 0 for label in labels):
            raise ValueError(f"The split {name!r} of {dataset_name} has pictures without a label.")
        pictures = pictures.cast_column("image", Image(decode=False))
        return with_labels(pictures, labels, [f"{name}[{i}]" for i in range(len(pictures))])

    names = [name.replace("_", " ") for name in label_feature.names]
    train, validation, test = split("train"), split("validation", "val", "valid"), split("test")
    if test is None:  # as papers do with ImageNet
        validation, test = None, validation
    origin = DataOptions(
        dataset_name=dataset_name,
        dataset_config_name=config_name,
        image_column=image_column,
        label_column=label_column,
    )
    name = folder_name(Path(dataset_name)) if Path(dataset_name).exists() else dataset_name
    return FewShotData(name, names, DEFAULT_TEMPLATE, train, validation, test, origin=origin)
