"""The options that name a data set of pictures with boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Optional

from .... import demo
from ...flags import Options, flag


@dataclass(frozen=True)
class BoxDataOptions(Options):
    """
    Options that name a data set of pictures with boxes. `--help` describes each.

    Raises:
        ValueError: if an option needs another one that is missing.
    """

    title: ClassVar[str] = "the pictures"

    dataset: str = flag(demo.SCENE_ADAPTATION_STYLE, f"A style of the embedded world: {', '.join(demo.SCENE_STYLES)}.")
    train_dir: Optional[str] = flag(
        None, "A folder with boxes in COCO's, Pascal VOC's or YOLO's format, with or without splits.", metavar="FOLDER"
    )
    test_dir: Optional[str] = flag(
        None,
        "A folder of test pictures like --train_dir. None: the split for testing in --train_dir, or if there is none, "
        "30 percent of the pictures are held out.",
        metavar="FOLDER",
    )
    train_split: Optional[str] = flag(
        None, "Split of --train_dir or --dataset_name for training. None: 'train', or all pictures if there are none."
    )
    test_split: Optional[str] = flag(None, "Split for testing. None: 'test', or else 'val', 'valid' or 'validation'.")
    bad_boxes: str = flag(
        "raise",
        "What to do about boxes without area, outside of the picture, or of an unknown class: raise an error that "
        "lists them, or skip them and list them as notes.",
        choices=("raise", "skip"),
    )
    dataset_name: Optional[str] = flag(None, "A data set of the Hub with a column of objects.")
    dataset_config_name: Optional[str] = flag(None, "Configuration of the data set of the Hub.")
    image_column: str = flag("image", "Column of the Hub data set that holds the pictures.")
    objects_column: str = flag("objects", "Column of the Hub data set that holds the objects.")
    box_format: str = flag("coco", "Format of the boxes of the Hub data set.", choices=("coco", "pascal_voc", "yolo"))

    def __post_init__(self):
        super().__post_init__()
        if self.test_dir is not None and self.train_dir is None:
            raise ValueError("--test_dir needs --train_dir; give both.")
        for name in ("train_split", "test_split"):
            if getattr(self, name) is not None and self.train_dir is None and self.dataset_name is None:
                raise ValueError(f"--{name} needs --train_dir or --dataset_name; give one of them.")
