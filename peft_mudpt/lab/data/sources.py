"""Loads labeled pictures: the embedded world, folders, a data set of the Hub, or one of CoOp's data sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Optional

from ... import demo
from .catalogue import refuse_test_only
from .coop import load_coop
from .embedded import load_embedded
from .few_shot_data import FewShotData
from .folders import load_folders
from .from_hub import load_from_hub
from .options import DataOptions


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
        data = load_folders(options.train_dir, options.test_dir, options.class_names, options.split)
    elif options.dataset_name is not None:
        data = load_from_hub(
            options.dataset_name, options.dataset_config_name, options.image_column, options.label_column
        )
    else:
        refuse_test_only(options.dataset)
        data = load_named(options.dataset, options.coop_root)
    if data.train is None:
        raise ValueError(f"{data.name} has no training pictures; its training split is empty.")
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
