"""Scenes of the embedded world as a small data set, and folders of them."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from peft_mudpt.lab import DetectionExperiment, DetectionTrainingOptions, FewShotBoxes, FewShotOptions
from peft_mudpt.lab.data.boxes import load_embedded_boxes


def scenes(style="faded", train=12, test=6) -> FewShotBoxes:
    return FewShotBoxes.of(load_embedded_boxes(style, train, 0), load_embedded_boxes(style, test, 1), style)


@pytest.fixture(scope="session")
def data():
    return scenes()


@pytest.fixture(scope="session")
def folder(data, tmp_path_factory) -> str:
    """The same scenes in a folder of COCO's layout."""
    root = tmp_path_factory.mktemp("boxes") / "my_boxes"
    for split, pictures in (("train", data.train), ("test", data.test)):
        write_split(root, split, pictures, data.class_names)
    return str(root)


def write_split(root: Path, split: str, pictures, class_names) -> None:
    (root / split).mkdir(parents=True)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": n} for i, n in enumerate(class_names)],
    }
    for i, example in enumerate(pictures):
        (root / split / f"{i:03}.png").write_bytes(example["image"]["bytes"])
        content["images"].append({"id": i, "file_name": f"{i:03}.png", "width": 64, "height": 64})
        for (left, top, right, bottom), label in zip(example["boxes"], example["labels"]):
            box = {"bbox": [left, top, right - left, bottom - top], "category_id": label, "image_id": i}
            content["annotations"].append({"id": len(content["annotations"]), **box})
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def experiment(data, method="sdpt", steps=2, shots=1, seed=1, evaluate_on="test", **options) -> DetectionExperiment:
    """A short run."""
    named = {field.name for field in fields(DetectionTrainingOptions)}
    training = {name: options.pop(name) for name in named & options.keys()}
    return DetectionExperiment(
        data,
        method,
        protocol=FewShotOptions(shots=shots, seed=seed, evaluate_on=evaluate_on),
        training=DetectionTrainingOptions(max_train_steps=steps, **training),
        **options,
    )
