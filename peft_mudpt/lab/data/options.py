"""The options that name a data set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Optional

from ... import demo
from ..flags import Options, flag


@dataclass(frozen=True)
class DataOptions(Options):
    """
    Options that name a data set. `--help` describes each.

    Raises:
        ValueError: if an option needs `train_dir`, but that is None, or if one of `train_dir` and `test_dir` contains
            the other.
    """

    title: ClassVar[str] = "the pictures"

    dataset: str = flag(
        demo.ADAPTATION_STYLE, "A style of the embedded world or, with --coop_root, one of CoOp's data sets."
    )
    coop_root: Optional[str] = flag(None, "The folder that holds CoOp's data sets.", metavar="FOLDER")
    train_dir: Optional[str] = flag(None, "A folder with one folder of pictures per class.", metavar="FOLDER")
    test_dir: Optional[str] = flag(
        None,
        "A folder of test pictures like --train_dir. None: 30 percent of each class are held out for testing.",
        metavar="FOLDER",
    )
    class_names: Optional[str] = flag(
        None,
        "A text file with lines 'folder = name', or a JSON file, with names for the classes of --train_dir. A folder "
        "that it does not name keeps its own name.",
        metavar="FILE",
    )
    split: Optional[str] = flag(
        None,
        "A CSV file with the columns 'file' (relative to --train_dir) and 'split' (train, validation or test) or "
        "'group' (pictures of one group are never separated) or both.",
        metavar="FILE",
    )
    dataset_name: Optional[str] = flag(None, "A data set of the Hub.")
    dataset_config_name: Optional[str] = flag(None, "Configuration of the data set of the Hub.")
    image_column: str = flag("image", "Column of the Hub data set that holds the pictures.")
    label_column: str = flag("label", "Column of the Hub data set that holds the labels, as a ClassLabel.")

    def __post_init__(self):
        super().__post_init__()
        for name in ("test_dir", "class_names", "split"):
            if getattr(self, name) is not None and self.train_dir is None:
                raise ValueError(f"--{name} needs --train_dir; give both.")
        if self.test_dir is not None:
            _refuse_nested(self.train_dir, self.test_dir)


def _refuse_nested(train_dir: str, test_dir: str) -> None:
    train, test = (Path(os.path.realpath(folder)) for folder in (train_dir, test_dir))
    if train == test:
        raise ValueError(f"--test_dir {test_dir} equals --train_dir; give other pictures for testing.")
    if train in test.parents or test in train.parents:
        raise ValueError(
            f"One of --train_dir {train_dir} and --test_dir {test_dir} contains the other; give two separate folders."
        )
