"""Labelled pictures from wherever they are: the embedded world, folders, the Hub, CoOp's data sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from ... import demo
from ..flags import Options, flag
from .catalogue import CATALOGUE
from .coop import class_names_by_label, list_pictures, read_coop
from .sampling import MAX_VALIDATION_SHOTS


if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_TEMPLATE = "a photo of a {}."


@dataclass(frozen=True)
class DataOptions(Options):
    """Which data set is meant."""

    dataset: str = flag(
        demo.ADAPTATION_STYLE, "A style of the embedded world or, with --coop_root, one of CoOp's data sets."
    )
    coop_root: Optional[str] = flag(None, "The folder of CoOp's data sets.")
    train_dir: Optional[str] = flag(None, "A folder with one folder of pictures per class.")
    test_dir: Optional[str] = flag(
        None, "Likewise, to test on. None: three tenths of each class of --train_dir, never trained on."
    )
    dataset_name: Optional[str] = flag(None, "A data set of the Hub.")
    dataset_config_name: Optional[str] = flag(None, "Its configuration.")
    image_column: str = flag("image", "Its column of pictures.")
    label_column: str = flag("label", "Its column of labels, a ClassLabel.")


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
        origin: the options that ask for it.
    """

    name: str
    class_names: list[str]
    template: str
    train: Dataset
    validation: Optional[Dataset] = None
    test: Optional[Dataset] = None
    may_be_cropped: bool = True
    origin: DataOptions = DataOptions()


def load_data(options: DataOptions) -> FewShotData:
    """
    The data set that the options name.

    Args:
        options: a folder, a data set of the Hub, or a name.

    Raises:
        ValueError: if what they name is not there, or cannot be used.
    """
    if options.train_dir is not None:
        data = load_folders(options.train_dir, options.test_dir)
    elif options.dataset_name is not None:
        data = load_from_hub(
            options.dataset_name, options.dataset_config_name, options.image_column, options.label_column
        )
    else:
        data = load_named(options.dataset, options.coop_root)
    if len(data.class_names) < 2:
        raise ValueError(f"Telling pictures apart takes at least two classes; {data.name} has {data.class_names}.")
    return replace(data, origin=options)


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
        origin=DataOptions(dataset=style),
    )


def load_folders(train_dir: str | os.PathLike, test_dir: Optional[str | os.PathLike] = None) -> FewShotData:
    """
    One folder of pictures per class, named after it ("_" stands for a space).

    Args:
        train_dir: the folder that holds the class folders.
        test_dir: likewise, of pictures to test on; None: a part of each class of `train_dir` is held out.

    Raises:
        ValueError: if a folder is missing, holds no classes, or a class holds no picture; if the test classes are
            others.
    """
    origin = DataOptions(train_dir=os.fspath(train_dir), test_dir=None if test_dir is None else os.fspath(test_dir))
    train_dir = Path(train_dir)
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
        test_dir = Path(test_dir)
        folders = _class_folders(test_dir, "--test_dir")
        unknown = sorted(set(folders) - set(classes))
        if unknown:
            raise ValueError(f"--test_dir {test_dir} has classes that --train_dir {train_dir} lacks: {unknown[:5]}.")
        test = split(test_dir, folders)
    train = split(train_dir, classes)
    return FewShotData(folder_name(train_dir), names, DEFAULT_TEMPLATE, train, test=test, origin=origin)


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

    train, validation, test = (split(splits[part]) for part in ("train", "val", "test"))
    origin = DataOptions(dataset=name, coop_root=os.fspath(root))
    return FewShotData(name, class_names, CATALOGUE[name].template, train, validation, test, origin=origin)


def load_from_hub(
    dataset_name: str, config_name: Optional[str] = None, image_column: str = "image", label_column: str = "label"
) -> FewShotData:
    """
    A data set of the Hub (or of any kind `load_dataset` knows), with its splits train, validation and test if it has
    them.

    Args:
        dataset_name: Hub id, or what else `load_dataset` takes.
        config_name: its configuration.
        image_column: its column of pictures.
        label_column: its column of labels, a `ClassLabel`.

    Raises:
        ValueError: if it lacks the columns or a training split, or its labels have no names.
    """
    from datasets import ClassLabel, Image, load_dataset

    splits = load_dataset(dataset_name, config_name)
    if "train" not in splits:
        raise ValueError(f"--dataset_name {dataset_name} has no split 'train' but {list(splits)}.")
    features = splits["train"].features
    found = "Columns found: " + ", ".join(f"{column} ({kind!r})" for column, kind in features.items())
    for kind, column in (("image", image_column), ("label", label_column)):
        if column not in features:
            raise ValueError(f"{dataset_name} has no column {column!r}; choose by --{kind}_column. {found}")
    label_feature = features[label_column]
    if not isinstance(features[image_column], Image):
        raise ValueError(f"The column {image_column!r} does not hold pictures. {found}")
    if not isinstance(label_feature, ClassLabel):
        raise ValueError(
            f"The column {label_column!r} must be a ClassLabel, which knows the names of the classes; "
            f"`dataset.class_encode_column({label_column!r})` makes one of strings. {found}"
        )

    def split(*names: str) -> Optional[Dataset]:
        name = next((name for name in names if name in splits), None)
        if name is None:
            return None
        pictures = splits[name].select_columns([image_column, label_column])
        pictures = pictures.rename_columns({image_column: "image", label_column: "label"})
        labels = pictures["label"][:]
        if name == "test" and all(label is None or label < 0 for label in labels):
            return None  # as the makers of competitions publish it
        if any(label is None or label < 0 for label in labels):
            raise ValueError(f"The split {name!r} of {dataset_name} has pictures without a label.")
        pictures = pictures.cast_column("image", Image(decode=False))
        return with_labels(pictures, labels, [f"{name}[{i}]" for i in range(len(pictures))])

    names = [name.replace("_", " ") for name in label_feature.names]
    train, validation, test = split("train"), split("validation", "val", "valid"), split("test")
    if test is None:  # as is done with ImageNet
        validation, test = None, validation
    origin = DataOptions(
        dataset_name=dataset_name,
        dataset_config_name=config_name,
        image_column=image_column,
        label_column=label_column,
    )
    return FewShotData(dataset_name, names, DEFAULT_TEMPLATE, train, validation, test, origin=origin)


def _from_rows(paths: list[str], labels: list[int], items: list[str]) -> Dataset:
    from datasets import Dataset, Features, Image, Value

    features = Features({"image": Image(decode=False), "label": Value("int64"), "item": Value("string")})
    return Dataset.from_dict({"image": paths, "label": labels, "item": items}, features=features)


def with_labels(pictures: Dataset, labels: list[int], items: Optional[list[str]] = None) -> Dataset:
    """`pictures` with these labels, and named so where they have no names yet."""
    pictures = pictures.remove_columns("label").add_column("label", labels)
    return pictures if items is None else pictures.add_column("item", items)
