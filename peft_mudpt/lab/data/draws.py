"""The few pictures that a run sees of a data set: training, validation and test items."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .sampling import MAX_VALIDATION_SHOTS, sample_few_shot
from .sources import FewShotData, with_labels


if TYPE_CHECKING:
    from datasets import Dataset

HELD_OUT = 0.3  # of each class, to test on, where there is no test split


@dataclass(frozen=True)
class Drawn:
    """What an experiment sees of a data set, and what is to be said about it."""

    train: Dataset
    validation: Dataset
    test: Dataset
    remarks: list[str]


def subset(pictures: Dataset, classes: Sequence[int]) -> Dataset:
    """The pictures of these classes only, each labelled by its class's place in `classes`."""
    place = {label: i for i, label in enumerate(classes)}
    labels = pictures["label"][:]
    kept = [i for i, label in enumerate(labels) if label in place]
    return with_labels(pictures.select(kept), [place[labels[i]] for i in kept])


def draw(data: FewShotData, shots: int, seed: int) -> Drawn:
    """
    The few pictures of an experiment (see `sample_few_shot`).

    A data set without a test split is tested on a part of each class that is held out, the same whatever the shots and
    the seed are. One without a validation split gives its validation items from what the training draw left.
    """
    labels = data.train["label"][:]
    held_out = set() if data.test is not None else set(_held_out(labels))
    pool = [i for i in range(len(labels)) if i not in held_out]
    known = [labels[i] for i in pool]
    train, validation = sample_few_shot(known, data.validation["label"][:] if data.validation else [], shots, seed)
    if data.validation is not None:
        validation_set = data.validation.select(validation)
    else:
        left = sorted(set(range(len(pool))) - set(train))
        drawn, _ = sample_few_shot([known[i] for i in left], [], min(shots, MAX_VALIDATION_SHOTS), seed)
        validation_set = data.train.select([pool[left[i]] for i in drawn])
    test = data.test if data.test is not None else data.train.select(sorted(held_out))
    return Drawn(data.train.select([pool[i] for i in train]), validation_set, test, _remarks(data, known, shots, test))


def _held_out(labels: list[int]) -> list[int]:
    """The same places for the same labels, always."""
    number = {label: int(HELD_OUT * n) for label, n in Counter(labels).items()}
    order = random.Random(0).sample(range(len(labels)), len(labels))
    held_out = []
    for i in order:
        if number[labels[i]] > 0:
            number[labels[i]] -= 1
            held_out.append(i)
    return held_out


def _remarks(data: FewShotData, known: list[int], shots: int, test: Dataset) -> list[str]:
    available, tested = Counter(known), set(test["label"][:])
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
