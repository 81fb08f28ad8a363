"""Labelled pictures from wherever they are: the embedded world, folders, the Hub, CoOp's data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from ... import demo
from ..arguments import Arguments
from .catalogue import BENCHMARKS
from .coop import class_names_by_label, list_pictures, read_coop
from .sampling import MAX_VALIDATION_SHOTS


if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_TEMPLATE = "a photo of a {}."


@dataclass(frozen=True)
class FewShotData:
    """
    A data set before the draw. Splits have the columns `image` (not decoded: path or bytes), `label` (int) and `item`
    (what the picture is called in a result).

    Args:
        name: of the data set.
        class_names: by label.
        template: text of a class, with `{}` for its name.
        train: what training items are drawn from.
        validation: what validation items are drawn from; None if there is no such split.
        test: None if a part of `train` must be held out for it.
        may_be_cropped: whether a part of a picture still shows its class.
    """

    name: str
    class_names: list[str]
    template: str
    train: Dataset
    validation: Optional[Dataset]
    test: Optional[Dataset]
    may_be_cropped: bool = True


def load_data(arguments: Arguments) -> FewShotData:
    """
    The data set that the arguments name.

    Raises:
        ValueError: if what they name is not there, or cannot be used.
    """
    if arguments.train_dir is not None:
        data = load_folders(Path(arguments.train_dir), arguments.test_dir and Path(arguments.test_dir))
    elif arguments.dataset_name is not None:
        data = load_from_hub(arguments)
    else:
        data = load_named(arguments.dataset, arguments.coop_root)
    if len(data.class_names) < 2:
        raise ValueError(f"Telling pictures apart takes at least two classes; {data.name} has {data.class_names}.")
    return data


def load_named(name: str, coop_root: Optional[str]) -> FewShotData:
    """A style of the embedded world, or a data set in CoOp's layout."""
    if name in demo.STYLES:
        return load_embedded(name)
    if coop_root is None:
        raise ValueError(
            f"{name!r} is no style of the embedded world ({', '.join(demo.STYLES)}); "
            "if it is one of CoOp's data sets, say by --coop_root where they lie."
        )
    return load_coop(Path(coop_root), name)


def load_embedded(style: str) -> FewShotData:
    """32 training, 4 validation and 10 test pictures of each class, drawn in `style`."""

    def split(name: str, images_per_class: int, seed: int) -> Dataset:
        from datasets import Image

        pictures = demo.load_pictures(style, images_per_class, seed).cast_column("image", Image(decode=False))
        return with_labels(pictures, pictures["label"][:], [f"{style}/{name}[{i}]" for i in range(len(pictures))])

    return FewShotData(
        style,
        list(demo.CLASS_NAMES),
        DEFAULT_TEMPLATE,
        train=split("train", images_per_class=32, seed=1),
        validation=split("validation", images_per_class=MAX_VALIDATION_SHOTS, seed=3),
        test=split("test", images_per_class=10, seed=2),
        may_be_cropped=False,
    )


def load_folders(train_dir: Path, test_dir: Optional[Path] = None) -> FewShotData:
    """
    One folder of pictures per class, named after it ("_" stands for a space).

    Raises:
        ValueError: if a folder is missing, holds no classes, or a class holds no picture; if the test classes are
            others.
    """
    classes = _class_folders(train_dir, "--train_dir")
    names = [name.replace("_", " ") for name in classes]

    def split(root: Path, folders: Sequence[str]) -> Dataset:
        rows = []
        for name in folders:
            pictures = list_pictures(root / name)
            if not pictures:
                raise ValueError(f"The class folder {root / name} holds no picture. Fill it or remove it.")
            rows += [(str(path), classes.index(name), str(path.relative_to(root))) for path in pictures]
        return _from_rows(*map(list, zip(*rows)))

    test = None
    if test_dir is not None:
        folders = _class_folders(test_dir, "--test_dir")
        unknown = sorted(set(folders) - set(classes))
        if unknown:
            raise ValueError(f"--test_dir {test_dir} has classes that --train_dir {train_dir} lacks: {unknown[:5]}.")
        test = split(test_dir, folders)
    return FewShotData(folder_name(train_dir), names, DEFAULT_TEMPLATE, split(train_dir, classes), None, test)


def folder_name(train_dir: Path) -> str:
    """What the data in a folder are called: like it, or like what it is the training part of."""
    folder = train_dir.resolve()
    return folder.parent.name if folder.name in ("train", "training") else folder.name


def _class_folders(root: Path, flag: str) -> list[str]:
    if not root.is_dir():
        raise ValueError(f"{flag} {root} is no folder.")
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) < (2 if flag == "--train_dir" else 1):
        raise ValueError(
            f"{flag} must hold a folder of pictures for each class, at least two; {root} holds {folders or 'none'}."
        )
    return folders


def load_coop(root: Path, name: str) -> FewShotData:
    """One of CoOp's data sets or a variant of ImageNet, under `root` (see `read_coop`)."""
    images, splits = read_coop(root, name)
    class_names = class_names_by_label([item for items in splits.values() for item in items])

    def split(items: list) -> Optional[Dataset]:
        if not items:
            return None
        paths, labels, _ = map(list, zip(*items))
        return _from_rows([str(images / path) for path in paths], labels, paths)

    return FewShotData(
        name, class_names, BENCHMARKS[name].template, *(split(splits[s]) for s in ("train", "val", "test"))
    )


def load_from_hub(arguments: Arguments) -> FewShotData:
    """
    A data set of the Hub (or of any kind `load_dataset` knows), with its splits train, validation and test if it has
    them.

    Raises:
        ValueError: if it lacks the columns or a training split, or its labels have no names.
    """
    from datasets import ClassLabel, Image, load_dataset

    splits = load_dataset(arguments.dataset_name, arguments.dataset_config_name)
    if "train" not in splits:
        raise ValueError(f"--dataset_name {arguments.dataset_name} has no split 'train' but {list(splits)}.")
    features = splits["train"].features
    found = "Columns found: " + ", ".join(f"{column} ({kind!r})" for column, kind in features.items())
    for flag, column in (("image", arguments.image_column), ("label", arguments.label_column)):
        if column not in features:
            raise ValueError(f"{arguments.dataset_name} has no column {column!r}; choose by --{flag}_column. {found}")
    label_feature = features[arguments.label_column]
    if not isinstance(features[arguments.image_column], Image):
        raise ValueError(f"The column {arguments.image_column!r} does not hold pictures. {found}")
    if not isinstance(label_feature, ClassLabel):
        raise ValueError(
            f"The column {arguments.label_column!r} must be a ClassLabel, which knows the names of the classes; "
            f"`dataset.class_encode_column({arguments.label_column!r})` makes one of strings. {found}"
        )

    def split(*names: str) -> Optional[Dataset]:
        name = next((name for name in names if name in splits), None)
        if name is None:
            return None
        pictures = splits[name].select_columns([arguments.image_column, arguments.label_column])
        pictures = pictures.rename_columns({arguments.image_column: "image", arguments.label_column: "label"})
        labels = pictures["label"][:]
        if name == "test" and all(label is None or label < 0 for label in labels):
            return None  # as the makers of competitions publish it
        if any(label is None or label < 0 for label in labels):
            raise ValueError(f"The split {name!r} of {arguments.dataset_name} has pictures without a label.")
        pictures = pictures.cast_column("image", Image(decode=False))
        return with_labels(pictures, labels, [f"{name}[{i}]" for i in range(len(pictures))])

    names = [name.replace("_", " ") for name in label_feature.names]
    train, validation, test = split("train"), split("validation", "val", "valid"), split("test")
    if test is None:  # as is done with ImageNet
        validation, test = None, validation
    return FewShotData(arguments.dataset_name, names, DEFAULT_TEMPLATE, train, validation, test)


def _from_rows(paths: list[str], labels: list[int], items: list[str]) -> Dataset:
    from datasets import Dataset, Features, Image, Value

    features = Features({"image": Image(decode=False), "label": Value("int64"), "item": Value("string")})
    return Dataset.from_dict({"image": paths, "label": labels, "item": items}, features=features)


def with_labels(pictures: Dataset, labels: list[int], items: Optional[list[str]] = None) -> Dataset:
    """`pictures` with these labels, and named so where they have no names yet."""
    pictures = pictures.remove_columns("label").add_column("label", labels)
    return pictures if items is None else pictures.add_column("item", items)
