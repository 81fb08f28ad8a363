"""Loads the data set that the options name: the embedded world, a folder, or a data set of the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional

from ..files import listed
from ..folders import folder_name
from .embedded import load_embedded_boxes
from .few_shot_boxes import FewShotBoxes
from .folders import WHOLE, Load, box_splits
from .from_objects import load_boxes_from_hub, name_of_dataset
from .options import BoxDataOptions
from .records import BoxData


TRAIN, TESTS = "train", ("test", "val", "valid", "validation")  # names of splits, the first that is there
EMBEDDED_SCENES = {"train": 200, "test": 150}  # number of scenes of each split of the embedded world


def load_box_data(options: BoxDataOptions) -> FewShotBoxes:
    """
    Load the data set that the options name.

    Args:
        options: name a folder, a data set of the Hub, or a style of the embedded world.

    Returns:
        The data set.

    Raises:
        ValueError: if the data set is missing or malformed, lacks a split, or has bad boxes.
    """
    if options.train_dir is not None:
        return _of_folders(options)
    if options.dataset_name is not None:
        return _of_hub(options)
    train, test = (
        load_embedded_boxes(options.dataset, number, seed) for seed, number in enumerate(EMBEDDED_SCENES.values())
    )
    return FewShotBoxes.of(train, test, options.dataset, options)


def _of_folders(options: BoxDataOptions) -> FewShotBoxes:
    folder, asked = Path(str(options.train_dir)), options.test_split
    splits = box_splits(folder)
    train = _load(splits, _named(splits, options.train_split, (TRAIN, WHOLE), folder), options)
    if options.test_dir is not None:
        other = Path(options.test_dir)
        splits = box_splits(other)
        test: Optional[BoxData] = _load(splits, _named(splits, asked, (*TESTS, WHOLE), other), options)
    else:
        name = _found(splits, asked, TESTS, folder)
        test = None if name is None else _load(splits, name, options)
    return FewShotBoxes.of(train, test, folder_name(folder), options)


def _of_hub(options: BoxDataOptions) -> FewShotBoxes:
    from datasets import get_dataset_split_names

    name, config = str(options.dataset_name), options.dataset_config_name
    columns = {own: getattr(options, own) for own in ("image_column", "objects_column", "box_format")}
    splits = {
        split: partial(load_boxes_from_hub, name, config, split, **columns)
        for split in get_dataset_split_names(name, config)
    }
    train = _load(splits, _named(splits, options.train_split, (TRAIN,), name), options)
    tested = _found(splits, options.test_split, TESTS, name)
    test = None if tested is None else _load(splits, tested, options)
    return FewShotBoxes.of(train, test, name_of_dataset(name), options)


def _load(splits: Mapping[str, Load], name: str, options: BoxDataOptions) -> BoxData:
    return splits[name](bad_boxes=options.bad_boxes)


def _found(splits: Mapping[str, Load], asked: Optional[str], usual: Sequence[str], where: Any) -> Optional[str]:
    """The split that is asked for, or the first usual one that is there; None if there is none."""
    if asked is not None and asked not in splits:
        known = [name for name in splits if name != WHOLE]
        raise ValueError(f"{where} has no split {asked!r}. Splits found: {listed(known) or 'none'}.")
    return asked or next((name for name in usual if name in splits), None)


def _named(splits: Mapping[str, Load], asked: Optional[str], usual: Sequence[str], where: Any) -> str:
    """As `_found`, but there must be one."""
    name = _found(splits, asked, usual, where)
    if name is None:
        raise ValueError(
            f"{where} has the splits {listed([*splits])}, but none of the name {usual[0]!r}. Name one "
            f"(--{'train' if usual[0] == TRAIN else 'test'}_split)."
        )
    return name
