"""The data sets of CoOp (arXiv 2109.01134) and their folder layout (DATASETS.md in CoOp's repository)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional


@dataclass(frozen=True)
class DataSet:
    """
    Where a data set is stored under CoOp's root folder, and which text CoOp uses for its classes.

    Args:
        folder: folder of the data set, relative to the root.
        images: folder of the pictures, relative to `folder`.
        template: text of a class, with `{}` for the class name (CoOp, table of hand-crafted prompts).
        layout: how the splits are stored: in one JSON file ("split"), in one list per split ("variants"), or as one
            folder per class ("class_folders").
        split: name of the JSON file, for layout "split".
        splits: folders of the training and the test pictures relative to `images`, for layout "class_folders". The
            first is None for a data set that is only used for testing.
        folders_are_labels: True if the class folders are named 0..C-1, False if they are named by WordNet id.
    """

    folder: str
    images: str
    template: str = "a photo of a {}."
    layout: Literal["split", "variants", "class_folders"] = "split"
    split: Optional[str] = None
    splits: tuple[Optional[str], str] = (None, "")
    folders_are_labels: bool = False

    @property
    def has_training_pictures(self) -> bool:
        """False if the data set is only used for testing."""
        return self.layout != "class_folders" or self.splits[0] is not None


CATALOGUE = {
    "caltech101": DataSet("caltech-101", "101_ObjectCategories", split="split_zhou_Caltech101.json"),
    "oxford_pets": DataSet(
        "oxford_pets", "images", "a photo of a {}, a type of pet.", split="split_zhou_OxfordPets.json"
    ),
    "stanford_cars": DataSet("stanford_cars", "", split="split_zhou_StanfordCars.json"),
    "oxford_flowers": DataSet(
        "oxford_flowers", "jpg", "a photo of a {}, a type of flower.", split="split_zhou_OxfordFlowers.json"
    ),
    "food101": DataSet("food-101", "images", "a photo of {}, a type of food.", split="split_zhou_Food101.json"),
    "fgvc_aircraft": DataSet("fgvc_aircraft", "images", "a photo of a {}, a type of aircraft.", layout="variants"),
    "sun397": DataSet("sun397", "SUN397", split="split_zhou_SUN397.json"),
    "dtd": DataSet("dtd", "images", "{} texture.", split="split_zhou_DescribableTextures.json"),
    "eurosat": DataSet("eurosat", "2750", "a centered satellite photo of {}.", split="split_zhou_EuroSAT.json"),
    "ucf101": DataSet("ucf101", "UCF-101-midframes", "a photo of a person doing {}.", split="split_zhou_UCF101.json"),
    "imagenet": DataSet("imagenet", "images", layout="class_folders", splits=("train", "val")),
    "imagenetv2": DataSet(
        "imagenetv2",
        "imagenetv2-matched-frequency-format-val",
        layout="class_folders",
        folders_are_labels=True,
    ),
    "imagenet_sketch": DataSet("imagenet-sketch", "images", layout="class_folders"),
    "imagenet_a": DataSet("imagenet-adversarial", "imagenet-a", layout="class_folders"),
    "imagenet_r": DataSet("imagenet-rendition", "imagenet-r", layout="class_folders"),
}

DOMAIN_GENERALIZATION_TARGETS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
CROSS_DATASET_TARGETS = (
    *("caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101"),
    *("fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101"),
)
CLASS_NAMES_FILE = "classnames.txt"  # for ImageNet and its variants: one WordNet id and class name per line


def refuse_test_only(name: str) -> None:
    """
    Refuse to train on a data set that is only used for testing.

    Args:
        name: any name of a data set.

    Raises:
        ValueError: if the data set has no training pictures.
    """
    if name in CATALOGUE and not CATALOGUE[name].has_training_pictures:
        trainable = ", ".join(other for other, data_set in CATALOGUE.items() if data_set.has_training_pictures)
        raise ValueError(
            f"--dataset {name} has test pictures only. Train on one of {trainable}; test on {name} with --protocol "
            f"domain-generalization or cross-dataset and --targets {name}."
        )
