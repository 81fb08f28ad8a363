"""The embedded world: a tiny CLIP and drawn pictures of shapes, a tiny detector and drawn scenes of several shapes.

The package contains all of it, so no download is needed. Training on the embedded world shows that learning works. Its
numbers say nothing about CLIP or detectors on photographs.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from ..rules import AT_LEAST_ONE
from .pictures import CLASS_NAMES, SIZE, STYLES, paint
from .scenes import SCENE_CLASSES, SCENE_SIZE, SCENE_STYLES, Scene, paint_scene


if TYPE_CHECKING:
    import PIL.Image
    from datasets import Dataset

# `CLIPModel.from_pretrained(MODEL_PATH)`, `AutoProcessor.from_pretrained(MODEL_PATH, backend="pil")`
MODEL_PATH = str(Path(__file__).parent / "clip")

# The tiny CLIP was trained on these styles (by examples/pretrain_demo.py). It is then adapted to the other one.
PRETRAINING_STYLES = ("plain", "dark", "noisy")
ADAPTATION_STYLE = "faded"

# `AutoModelForZeroShotObjectDetection.from_pretrained(DETECTOR_PATH)`
DETECTOR_PATH = str(Path(__file__).parent / "detector")

# The tiny detector was trained on scenes of this style (by examples/pretrain_demo_detector.py).
# It is then adapted to the other one.
SCENE_PRETRAINING_STYLE = "plain"
SCENE_ADAPTATION_STYLE = "faded"

__all__ = [
    "ADAPTATION_STYLE",
    "CLASS_NAMES",
    "DETECTOR_PATH",
    "MODEL_PATH",
    "PRETRAINING_STYLES",
    "SCENE_ADAPTATION_STYLE",
    "SCENE_CLASSES",
    "SCENE_PRETRAINING_STYLE",
    "SCENE_SIZE",
    "SCENE_STYLES",
    "SIZE",
    "STYLES",
    "Scene",
    "load_pictures",
    "load_scenes",
    "paint",
    "paint_scene",
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


def load_scenes(style: str, number: int, seed: int) -> Dataset:
    """
    Draw scenes with boxes. The same arguments give the same scenes.

    Args:
        style: one of `SCENE_STYLES`.
        number: number of scenes, at least 1.
        seed: seed of the random numbers; another seed draws other scenes.

    Returns:
        The scenes in the form of `BoxData.pictures`: the columns `image` (an RGB picture of `SCENE_SIZE` x
        `SCENE_SIZE` pixels, as the bytes of a PNG file), `boxes` (each left, top, right and bottom in pixels),
        `labels` (positions in `SCENE_CLASSES`), `ignored` (always False) and `item`. Some scenes have no boxes.

    Raises:
        ValueError: if the style is unknown or the number is not at least 1.
    """
    import numpy as np
    from datasets import Dataset, Features, Image, List, Value

    AT_LEAST_ONE.check(number, "number")
    rng = np.random.default_rng([seed, *style.encode()])
    scenes = [paint_scene(style, rng) for _ in range(number)]
    columns = {
        "image": [{"bytes": _png(scene.picture)} for scene in scenes],
        "boxes": [scene.boxes for scene in scenes],
        "labels": [[SCENE_CLASSES.index(name) for name in scene.class_names] for scene in scenes],
        "ignored": [[False] * len(scene.boxes) for scene in scenes],
        "item": [f"{style}[{i}]" for i in range(number)],
    }
    features = Features(
        {
            "image": Image(decode=False),
            "boxes": List(List(Value("float64"), length=4)),
            "labels": List(Value("int64")),
            "ignored": List(Value("bool")),
            "item": Value("string"),
        }
    )
    return Dataset.from_dict(columns, features=features)


def _png(picture: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()
