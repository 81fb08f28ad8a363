"""A data set of pictures with boxes and its splits, as every source returns it, and the few pictures of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

from ..draws import Drawn
from ..files import listed
from ..held_out import HELD_OUT, random_order
from ..sampling import MAX_VALIDATION_SHOTS
from .options import BoxDataOptions
from .records import BoxData
from .sampling import sample_few_shot_boxes


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class FewShotBoxes:
    """
    A data set with its splits. Each split has the columns of `BoxData.pictures`.

    Args:
        name: name of the data set.
        class_names: C names; the position of a name is its label.
        train: the split from which training pictures are drawn.
        test: the test pictures; None if a part of `train` must be held out.
        origin: the options from which this data set was loaded. None is replaced by `BoxDataOptions(dataset=name)`.
        remarks: notes for the user about the data set, such as boxes that were skipped.
    """

    name: str
    class_names: list[str]
    train: Dataset
    test: Optional[Dataset] = None
    origin: Optional[BoxDataOptions] = None
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self):
        if self.origin is None:
            object.__setattr__(self, "origin", BoxDataOptions(dataset=self.name))

    @classmethod
    def of(cls, train: BoxData, test: Optional[BoxData], name: str, origin: Any = None) -> FewShotBoxes:
        """
        Join two splits. The classes are those of the training split.

        Args:
            train: the training split.
            test: the test split; None: there is none.
            name: name of the data set.
            origin: see the class.

        Raises:
            ValueError: if the test split has a class that the training split lacks.
        """
        names, remarks = train.class_names, [*train.remarks]
        if test is None:
            return cls(name, names, train.pictures, None, origin, remarks)
        if missing := [own for own in test.class_names if own not in names]:
            raise ValueError(
                f"{test.name} has the classes {listed(missing)}, which {train.name} lacks. Give both the same classes."
            )
        pictures = test.pictures
        if test.class_names != names:
            new = [names.index(own) for own in test.class_names]
            labels = [[new[label] for label in own] for own in pictures["labels"][:]]
            features = pictures.features["labels"]
            pictures = pictures.remove_columns("labels").add_column("labels", labels, feature=features)
        return cls(name, names, train.pictures, pictures, origin, [*remarks, *test.remarks])


def draw_boxes(data: FewShotBoxes, shots: int, seed: int, evaluate_on: str = "test") -> Drawn:
    """
    Draw the training pictures of a run (see `sample_few_shot_boxes`), and choose its test pictures.

    If there is no test split, the share `HELD_OUT` of the pictures is held out for testing; these depend on neither
    `shots` nor `seed`. To evaluate on validation pictures, at most `MAX_VALIDATION_SHOTS` for each class, and at most
    the share `HELD_OUT` of all, are drawn from the training split first; else there are none, so that the training
    pictures are those of the published rule.

    Args:
        data: the data set.
        shots: pictures for each class; a class that has fewer uses all of them.
        seed: seed of the draw.
        evaluate_on: "test" or "validation": the pictures on which the run is evaluated.

    Returns:
        The drawn pictures, the test pictures, and remarks about them.

    Raises:
        ValueError: if no picture with boxes is left to train on or to evaluate on.
    """
    pool, test = data.train, data.test
    if test is None:
        order = random_order(pool["item"][:], seed=0)
        number = int(HELD_OUT * len(order))
        pool, test = pool.select(sorted(order[number:])), pool.select(sorted(order[:number]))
    validation: list[int] = []
    places = list(range(len(pool)))
    labels = _learned(pool)
    if evaluate_on == "validation":
        # another seed than that of the training pictures, which would draw the same ones
        most = max(1, int(HELD_OUT * len(pool)))
        validation = sample_few_shot_boxes(labels, min(shots, MAX_VALIDATION_SHOTS), seed + 1)[:most]
        taken = set(validation)
        places = [place for place in places if place not in taken]
    drawn = sample_few_shot_boxes([labels[place] for place in places], shots, seed)
    train = pool.select([places[i] for i in drawn])
    chosen = pool.select(validation)
    evaluated = chosen if evaluate_on == "validation" else test
    _check_boxes(data, train, len(places), "training")
    _check_boxes(data, evaluated, len(evaluated), evaluate_on)
    remarks = _remarks(data.class_names, train, evaluated, shots)
    unused = sum(bool(labels[place]) for place in places) - len(drawn)  # no shot is without boxes
    return Drawn(train, chosen, test, [*data.remarks, *remarks], unused)


def _check_boxes(data: FewShotBoxes, pictures: Dataset, of: int, use: str) -> None:
    if not any(_learned(pictures)):
        raise ValueError(
            f"{data.name} has {of} {use} pictures, of which none shows an object. Add pictures with boxes, or name "
            "other pictures (--train_split, --test_split, --test_dir)."
        )


def _learned(pictures: Dataset) -> list[list[int]]:
    """The labels of each picture, without those of ignored boxes."""
    columns = zip(pictures["labels"][:], pictures["ignored"][:])
    return [[label for label, off in zip(labels, ignored) if not off] for labels, ignored in columns]


def pictures_by_class(pictures: Dataset, class_names: Sequence[str]) -> dict[str, int]:
    """
    Count the pictures that show each class.

    Args:
        pictures: pictures of `BoxData`.
        class_names: names of the classes, in the order of the labels.

    Returns:
        The number by class name. A picture counts once for each of its classes.
    """
    number = Counter(label for own in _learned(pictures) for label in set(own))
    return {name: number[label] for label, name in enumerate(class_names)}


def _remarks(class_names: list[str], train: Dataset, evaluated: Dataset, shots: int) -> list[str]:
    used, seen = pictures_by_class(train, class_names), pictures_by_class(evaluated, class_names)
    remarks = {
        f"fewer than {shots} pictures to train on, all used": [
            f"{name} ({number})" for name, number in used.items() if number < shots
        ],
        "no picture to evaluate on": [name for name, number in seen.items() if not number],
    }
    return [f"{what}: {listed(which)}" for what, which in remarks.items() if which]
