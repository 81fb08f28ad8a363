"""Loads labeled pictures: the embedded world (drawn pictures, see `demo`), folders, the Hub, or CoOp's data sets."""

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
    """Options that name a data set. `--help` describes each."""

    dataset: str = flag(
        demo.ADAPTATION_STYLE, "A style of the embedded world or, with --coop_root, one of CoOp's data sets."
    )
    coop_root: Optional[str] = flag(None, "The folder that holds CoOp's data sets.")
    train_dir: Optional[str] = flag(None, "A folder with one folder of pictures per class.")
    test_dir: Optional[str] = flag(
        None, "A folder of test pictures like --train_dir. None: 30 percent of each class are held out for testing."
    )
    dataset_name: Optional[str] = flag(None, "A data set of the Hub.")
    dataset_config_name: Optional[str] = flag(None, "Configuration of the data set of the Hub.")
    image_column: str = flag("image", "Column of the Hub data set that holds the pictures.")
    label_column: str = flag("label", "Column of the Hub data set that holds the labels, as a ClassLabel.")


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
    """

    name: str
    class_names: list[str]
    template: str
    train: Dataset
    validation: Optional[Dataset] = None
    test: Optional[Dataset] = None
    may_be_cropped: bool = True
    origin: Optional[DataOptions] = None

    def __post_init__(self):
        if self.origin is None:  # two data sets of other names are two experiments
            object.__setattr__(self, "origin", DataOptions(dataset=self.name))


def load_data(options: DataOptions) -> FewShotData:
    """
    Load the data set that the options name.

    Args:
        options: name a folder, a data set of the Hub, a style of the embedded world, or one of CoOp's data sets.

    Returns:
        The data set.

    Raises:
        ValueError: if the data set is missing, malformed, or has fewer than two classes.
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
        raise ValueError(f"Classification needs at least two classes; {data.name} has {data.class_names}.")
    return replace(data, origin=options)


def load_named(name: str, coop_root: Optional[str]) -> FewShotData:
    """
    Load a style of the embedded world, or one of CoOp's data sets.

    Args:
        name: a style of `demo.STYLES`, or a name of `CATALOGUE`.
        coop_root: the folder that holds CoOp's data sets; not needed for a style.

    Returns:
        The data set.

    Raises:
        ValueError: if the name is unknown, or the data set cannot be read (see `read_coop`).
    """
    if name in demo.STYLES:
        return load_embedded(name)
    if coop_root is None:
        raise ValueError(
            f"{name!r} is not a style of the embedded world ({', '.join(demo.STYLES)}). "
            "If it is one of CoOp's data sets, give the folder that holds them: --coop_root."
        )
    return load_coop(Path(coop_root), name)


def load_embedded(style: str) -> FewShotData:
    """
    Draw a data set of the embedded world: 32 training, 4 validation and 10 test pictures of each class.

    Args:
        style: one of `demo.STYLES`.

    Returns:
        The data set.

    Raises:
        ValueError: if the style is unknown.
    """

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
        return _dataset(*map(list, zip(*examples)))

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


def load_coop(root: Path, name: str) -> FewShotData:
    """
    Load one of CoOp's data sets, or a variant of ImageNet.

    Args:
        root: the folder that holds CoOp's data sets.
        name: one of `CATALOGUE`.

    Returns:
        The data set.

    Raises:
        ValueError: if the data set cannot be read (see `read_coop`), or its labels are inconsistent.
    """
    images, splits = read_coop(root, name)
    class_names = class_names_by_label([item for items in splits.values() for item in items])

    def split(items: list) -> Optional[Dataset]:
        if not items:
            return None
        paths, labels, _ = map(list, zip(*items))
        return _dataset([str(images / path) for path in paths], labels, paths)

    train, validation, test = (split(splits[part]) for part in ("train", "val", "test"))
    origin = DataOptions(dataset=name, coop_root=os.fspath(root))
    return FewShotData(name, class_names, CATALOGUE[name].template, train, validation, test, origin=origin)


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
    return FewShotData(dataset_name, names, DEFAULT_TEMPLATE, train, validation, test, origin=origin)


def _dataset(paths: list[str], labels: list[int], items: list[str]) -> Dataset:
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
