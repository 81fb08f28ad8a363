"""A finished run without training: its result, its identity and its pictures."""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

from peft_mudpt.lab.identity import as_identity
from peft_mudpt.lab.schema import write_result
from tests.lab.report.made_results import result


CLASSES = ["cat", "dog", "cow"]
# for each class, what its test pictures are taken for
TAKEN_FOR = {"cat": ["cat", "cat", "dog", "cow"], "dog": ["dog", "cow", "cow"], "cow": ["cow", "cow"]}
BINS = 20


def draw(file: Path, seed: int, size=(40, 30)) -> str:
    """Draw a picture of noise, and return its fingerprint."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def reliability(pictures: int) -> dict:
    """So many pictures in each of the last two bins, with their confidence and accuracy."""
    empty = [None] * (BINS - 2)
    counts = [*[0] * (BINS - 2), pictures, 3]
    confidence, accuracy = [*empty, 0.93, 0.98], [*empty, 0.75, 1.0]
    return dict(error=12.5, error_by_chance=4.5, pictures=counts, confidence=confidence, accuracy=accuracy)


def metrics(taken_for=TAKEN_FOR) -> dict:
    """The metrics of test pictures, from what those of each class are taken for. Nearly sure mistakes come last."""
    right = {name: sum(name == other for other in taken) for name, taken in taken_for.items()}
    items = {name: {f"{name}/test {i}.png": o for i, o in enumerate(taken)} for name, taken in taken_for.items()}
    wrong = [(name, item) for name, found in items.items() for item, other in found.items() if other != name]
    shares = {place: 50 + 49 * i / len(wrong) for i, place in enumerate(wrong)}
    mistakes: dict = {}
    for (name, item), share in shares.items():
        percent = {items[name][item]: round(share, 2), name: round(100 - share, 2)}
        mistakes.setdefault(name, {})[item] = percent
    accuracies = [right[name] / len(taken) for name, taken in taken_for.items()]
    return {
        "accuracy": 100 * sum(right.values()) / sum(map(len, taken_for.values())),
        "mean_class_accuracy": 100 * sum(accuracies) / len(accuracies),
        "classes": {name: [right[name], len(taken)] for name, taken in taken_for.items()},
        "predictions": items,
        "mistakes": mistakes,
        "calibration": {
            "temperature": 1.5,
            "before": reliability(pictures=12),
            "after": reliability(pictures=4),
            "sets": [{"coverage": 0.9, "held": 91.5, "classes": 1.25, "empty": 0.0}],
        },
    }


def made_run(folder: Path, pictures: Path, taken_for=TAKEN_FOR, shots=2, **changes) -> Path:
    """
    Write a run of classification, and draw its pictures. `changes` are those of `made_results.result`.

    Returns the folder of the run.
    """
    names, test = list(taken_for), metrics(taken_for)
    drawn = {f"{name}/{i}.png": name for name in names for i in range(shots)}
    tested = {item: name for name, items in test["predictions"].items() for item in items}
    noted = {
        part: {item: f"{draw(pictures / item, seed)} {name}" for seed, (item, name) in enumerate(items.items())}
        for part, items in (("training", drawn), ("test", tested))
    }
    made = result(
        **{
            "class_names": names,
            "items": {"train": list(drawn), "validation": []},
            "training_pictures": dict.fromkeys(names, shots),
            "metrics": {"test": test},
            "zero_shot": {"test": metrics({name: taken[::-1] for name, taken in taken_for.items()})},
            "summary": {"accuracy": test["accuracy"]},
            "calibration": {"temperature": 1.5, "scores": [[0.5]] * len(names)},
            "versions": {"torch": "2.0"},
            **changes,
        }
    )
    write_result(folder, made)
    identity = as_identity({**made["arguments"], "train_dir": str(pictures), "pictures": noted})
    (folder / "run.json").write_text(json.dumps(identity), encoding="utf-8")
    return folder
