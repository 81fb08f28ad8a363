"""Loads the embedded world: drawn pictures, see `demo`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ... import demo
from .few_shot_data import DEFAULT_TEMPLATE, FewShotData, with_labels
from .options import DataOptions
from .sampling import MAX_VALIDATION_SHOTS


if TYPE_CHECKING:
    from datasets import Dataset


@cache
def load_embedded(style: str) -> FewShotData:
    """
    Draw a data set of the embedded world: 32 training, 4 validation and 10 test pictures of each class. A process
    draws each style once.

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
