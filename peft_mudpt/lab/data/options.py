"""The options that name a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ... import demo
from ..flags import Options, flag


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
