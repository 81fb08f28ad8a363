"""Draws the few training and validation pictures of a run from a data set, and chooses its test pictures."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .few_shot_data import FewShotData, with_labels
from .sampling import MAX_VALIDATION_SHOTS, sample_few_shot


if TYPE_CHECKING:
    from datasets import Dataset

HELD_OUT = 0.3  # share of each class that is held out for testing if there is no test split


@dataclass(frozen=True)
class Drawn:
    """
    The pictures that a run uses.

    Args:
        train: training pictures.
        validation: validation pictures; may be empty.
        test: test pictures; may be empty.
        remarks: notes for the user about these pictures, such as classes with too few of them; may be empty.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    remarks: list[str]


def subset(pictures: Dataset, classes: Sequence[int]) -> Dataset:
    """
    Keep the pictures of some classes, and relabel them.

    Args:
        pictures: a split of `FewShotData`.
        classes: labels of the classes to keep.

    Returns:
        Their pictures. The new label of a picture is the position of its class in `classes`.
    """
    new_label = {label: i for i, label in enumerate(classes)}
    labels = pictures["label"][:]
    kept = [i for i, label in enumerate(labels) if label in new_label]
    return with_labels(pictures.select(kept), [new_label[labels[i]] for i in kept])


def draw(data: FewShotData, shots: int, seed: int) -> Drawn:
    """
    Draw the training and validation pictures of a run (see `sample_few_shot`), and choose the test pictures.

    If there is no test split, the share `HELD_OUT` of each class of the training split is held out for testing. The
    held-out pictures depend on neither `shots` nor `seed`. If there is no validation split, validation pictures are
    drawn from the training split, without those held out or drawn for training.

    Args:
        data: the data set.
        shots: training pictures per class; a class that has fewer uses all of them.
        seed: seed of the draw.

    Returns:
        The drawn pictures, the test pictures, and remarks about them.
    """
    labels = data.train["label"][:]
    held_out = set() if data.test is not None else set(_held_out(labels))
    pool = [i for i in range(len(labels)) if i not in held_out]
    pool_labels = [labels[i] for i in pool]
    validation_labels = data.validation["label"][:] if data.validation else []
    train, validation = sample_few_shot(pool_labels, validation_labels, shots, seed)
    if data.validation is not None:
        validation_set = data.validation.select(validation)
    else:
        left = sorted(set(range(len(pool))) - set(train))
        drawn, _ = sample_few_shot([pool_labels[i] for i in left], [], min(shots, MAX_VALIDATION_SHOTS), seed)
        validation_set = data.train.select([pool[left[i]] for i in drawn])
    test = data.test if data.test is not None else data.train.select(sorted(held_out))
    remarks = _remarks(data, pool_labels, shots, test)
    return Drawn(data.train.select([pool[i] for i in train]), validation_set, test, remarks)


def _held_out(labels: list[int]) -> list[int]:
    """Indices of the pictures held out for testing. They depend on `labels` only, because the seed is fixed."""
    number = {label: int(HELD_OUT * n) for label, n in Counter(labels).items()}
    order = random.Random(0).sample(range(len(labels)), len(labels))
    held_out = []
    for i in order:
        if number[labels[i]] > 0:
            number[labels[i]] -= 1
            held_out.append(i)
    return held_out


def _remarks(data: FewShotData, pool_labels: list[int], shots: int, test: Dataset) -> list[str]:
    available, tested = Counter(pool_labels), set(test["label"][:])
    remarks = {
        f"fewer than {shots} pictures to train on, all used": [
            f"{name} ({available[label]})" for label, name in enumerate(data.class_names) if available[label] < shots
        ],
        "no picture to test on": [name for label, name in enumerate(data.class_names) if label not in tested],
        "names that several classes share, which text cannot tell apart": [
            name for name, count in Counter(data.class_names).items() if count > 1
        ],
    }
    return [f"{what}: {_first(names)}" for what, names in remarks.items() if names]


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
