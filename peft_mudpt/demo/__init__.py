"""The embedded world: a tiny CLIP and drawn pictures of shapes. The package contains both, so no download is needed.

Training on the embedded world shows that learning works. Its accuracies say nothing about CLIP on photographs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .pictures import CLASS_NAMES, SIZE, STYLES, paint


if TYPE_CHECKING:
    from datasets import Dataset

# `CLIPModel.from_pretrained(MODEL_PATH)`, `AutoProcessor.from_pretrained(MODEL_PATH, backend="pil")`
MODEL_PATH = str(Path(__file__).parent / "clip")

# The tiny CLIP was trained on these styles (by examples/pretrain_demo.py). It is then adapted to the other one.
PRETRAINING_STYLES = ("plain", "dark", "noisy")
ADAPTATION_STYLE = "faded"

__all__ = [
    "ADAPTATION_STYLE",
    "CLASS_NAMES",
    "MODEL_PATH",
    "PRETRAINING_STYLES",
    "SIZE",
    "STYLES",
    "paint",
    "load_pictures",
]


def load_pictures(style: str, images_per_class: int, seed: int) -> Dataset:
    """
    Draw a data set, class by class. The same arguments give the same pictures.

    Args:
        style: one of `STYLES`.
        images_per_class: number of pictures of each class.
        seed: seed of the random numbers; another seed draws other pictures.

    Returns:
        `len(CLASS_NAMES) * images_per_class` examples: `image`, an RGB picture of `SIZE` x `SIZE` pixels, and `label`,
        a `ClassLabel` of `CLASS_NAMES`.

    Raises:
        ValueError: if the style is unknown.
    """
    import numpy as np
    from datasets import ClassLabel, Dataset, Features, Image

    rng = np.random.default_rng([seed, *style.encode()])
    labels = [label for label in range(len(CLASS_NAMES)) for _ in range(images_per_class)]
    images = [paint(CLASS_NAMES[label], style, rng) for label in labels]
    features = Features({"image": Image(), "label": ClassLabel(names=list(CLASS_NAMES))})
    return Dataset.from_dict({"image": images, "label": labels}, features=features)
