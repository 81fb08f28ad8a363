"""Draws the few training and validation pictures of a run from a data set, and chooses its test pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from .few_shot_data import FewShotData, with_labels
from .files import listed
from .held_out import HELD_OUT, hold_out
from .sampling import MAX_VALIDATION_SHOTS, sample_few_shot


if TYPE_CHECKING:
    from datasets import Dataset

# What a remark says of classes without pictures to evaluate on, and the advice. Fewer shots would not help, because
# pictures are held out before the draw.
LACKING = {
    "test": (
        "no picture to test on",
        "add pictures, because 30 percent, rounded down, are held out; or give --test_dir",
    ),
    "validation": ("no picture to validate on", "add pictures, because 30 percent are held out"),
}


@dataclass(frozen=True)
class Drawn:
    """
    The pictures that a run uses.

    Args:
        train: training pictures.
        validation: validation pictures; may be empty.
        test: test pictures; may be empty.
        remarks: notes for the user about these pictures, such as classes with too few of them; may be empty.
        unused: number of pictures that the run does not use, but would train on with more shots.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    remarks: list[str]
    unused: int = 0


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


def draw(
    data: FewShotData, shots: int, seed: int, evaluate_on: str = "test", validation_shots: Optional[int] = None
) -> Drawn:
    """
    Draw the training and validation pictures of a run (see `sample_few_shot`), and choose the test pictures.

    If there is no test split, the share `HELD_OUT` of each class of the training split is held out for testing. The
    held-out pictures of a class depend on neither `shots` nor `seed`, nor on the other classes. If there is no
    validation split, validation pictures are taken from the other pictures of the training split: `validation_shots`
    of each class before training pictures are drawn, or without this number, to evaluate on them, the share `HELD_OUT`
    of each class, but from 1 to `MAX_VALIDATION_SHOTS`; otherwise, what is left after training pictures are drawn.
    Pictures of a group are not separated (see `hold_out`).

    Args:
        data: the data set.
        shots: training pictures per class; a class that has fewer uses all of them.
        seed: seed of the draw.
        evaluate_on: "test" or "validation": the pictures on which the run is evaluated.
        validation_shots: validation pictures per class; a class that has fewer gives all of a validation split, or all
            but one for training. None: see above; of a validation split min(`shots`, `MAX_VALIDATION_SHOTS`).

    Returns:
        The drawn pictures, the test pictures, and remarks about them.
    """
    items, labels = data.train["item"][:], data.train["label"][:]
    groups = list(range(len(labels)) if data.groups is None else data.groups)
    columns = (items, labels, groups)
    pool, test, validation = list(range(len(labels))), [], []
    if data.test is None:
        test, pool = _take(pool, columns, lambda n: int(HELD_OUT * n), seed=0)
    holds_out = evaluate_on == "validation" or validation_shots is not None
    if data.validation is None and holds_out:
        validation, pool = _take(pool, columns, lambda n: validation_shots or _number_to_validate_on(n), seed)
    validation_labels = data.validation["label"][:] if data.validation else []
    train, drawn = sample_few_shot([labels[i] for i in pool], validation_labels, shots, seed, validation_shots)
    train = [pool[i] for i in train]
    if data.validation is None and not holds_out:
        used = {groups[i] for i in train}
        left = [i for i in pool if groups[i] not in used]
        some, _ = sample_few_shot([labels[i] for i in left], [], min(shots, MAX_VALIDATION_SHOTS), seed)
        validation = [left[i] for i in some]
    unused = len(set(pool).difference(train, validation))
    parts = (
        data.train.select(train),
        data.train.select(validation) if data.validation is None else data.validation.select(drawn),
        data.train.select(test) if data.test is None else data.test,
    )
    evaluated = parts[1] if evaluate_on == "validation" else parts[2]
    remarks = [*data.remarks, *_remarks(data, Counter(labels[i] for i in pool), shots, evaluate_on, evaluated)]
    if validation_shots is not None:
        number = Counter(parts[1]["label"][:])
        few = [f"{name} ({number[i]})" for i, name in enumerate(data.class_names) if number[i] < validation_shots]
        remarks += [f"fewer than {validation_shots} pictures to validate on: {listed(few)}"] if few else []
    return Drawn(*parts, remarks, unused)


def _number_to_validate_on(n: int) -> int:
    return min(MAX_VALIDATION_SHOTS, max(1, int(HELD_OUT * n)))


def _take(
    pool: list[int], columns: Sequence[Sequence], number: Callable[[int], int], seed: int
) -> tuple[list[int], list[int]]:
    """Divide a pool into the pictures that are held out and the others."""
    taken = set(hold_out(*([column[i] for i in pool] for column in columns), number, seed))
    return [i for k, i in enumerate(pool) if k in taken], [i for k, i in enumerate(pool) if k not in taken]


def _remarks(
    data: FewShotData, available: Counter[int], shots: int, evaluate_on: str, evaluated: Dataset
) -> list[str]:
    names, seen = list(enumerate(data.class_names)), set(evaluated["label"][:])
    lacking, advice = LACKING[evaluate_on]
    spelling = Counter(map(str.lower, data.class_names))  # CLIP's tokenizers make lower case
    remarks = {
        f"fewer than {shots} pictures to train on, all used": [
            f"{name} ({available[label]})" for label, name in names if available[label] < shots
        ],
        f"{lacking} ({advice})": [name for label, name in names if label not in seen],
        "names that several classes share, which text cannot tell apart (--class_names gives others)": list(
            dict.fromkeys(name for _, name in names if spelling[name.lower()] > 1)
        ),
    }
    return [f"{what}: {listed(which)}" for what, which in remarks.items() if which]
