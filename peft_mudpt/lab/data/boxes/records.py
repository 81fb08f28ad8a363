"""The one form into which every source of boxes is brought, and the checks that each box must pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

from ....classifier.pictures import picture_size
from ....rules import check_class_names, normalized, one_of


if TYPE_CHECKING:
    from datasets import Dataset

BadBoxes = Literal["raise", "skip"]
BAD_BOXES = one_of("raise", "skip")
ROUNDING = 0.5  # pixels by which a box may reach beyond the picture, because tools round; it is then cut at the edge


@dataclass(frozen=True)
class Box:
    """
    A box of a source, not yet checked.

    Args:
        number: its position in the source, for messages, such as "annotation 17".
        corners: left, top, right and bottom, in pixels of the upright picture, or in parts of it if `relative`.
        category: the name of its class, or whatever stands there if it has none.
        relative: True if `corners` are parts of the width and the height.
        ignored: True for crowds and objects that are too difficult: not learned, and neither right nor wrong if found.
    """

    number: str
    corners: Sequence[Any]
    category: Any
    relative: bool = False
    ignored: bool = False


@dataclass(frozen=True)
class Record:
    """
    A picture of a source with its boxes, not yet checked.

    Args:
        image: path of the picture, or a dict with its `bytes` or `path`.
        item: what identifies it in messages and result files.
        boxes: its boxes; none if it shows no object.
        size: width and height for which the boxes were drawn; None: not recorded.
    """

    image: Union[str, Mapping[str, Any]]
    item: str
    boxes: Sequence[Box] = ()
    size: Optional[tuple[Any, Any]] = None


@dataclass(frozen=True)
class BoxData:
    """
    Pictures with boxes.

    Args:
        name: name of the data set.
        class_names: C names; the position of a name is its label.
        pictures: the columns are `image` (path or bytes, not decoded); `boxes`, each left, top, right and bottom in
            pixels of the upright picture; `labels` and `ignored`, one for each box; and `item` (a string that
            identifies the picture). A picture may have no boxes.
        remarks: notes for the user, such as boxes that were skipped, one for each.
    """

    name: str
    class_names: list[str]
    pictures: Dataset
    remarks: list[str] = field(default_factory=list)


def box_data(name: str, class_names: Sequence[str], records: Iterable[Record], bad_boxes: BadBoxes) -> BoxData:
    """
    Check records, and bring them into the one form. Of each picture the header is read.

    Args:
        name: name of the data set.
        class_names: names of the classes, in the order of the labels.
        records: the pictures with their boxes, in the order of the source.
        bad_boxes: what to do about a box that is not finite, has no area, reaches beyond the picture by more than
            `ROUNDING` pixels, or is of an unknown class: "raise" an error that lists all of them, or "skip" them, with
            a remark for each. A picture whose boxes are all skipped is left out, because it is not without objects.

    Returns:
        The pictures that can be used, with their good boxes.

    Raises:
        ValueError: if a picture or a box is bad, two classes have the same name, or there are no pictures.
    """
    BAD_BOXES.check(bad_boxes, "bad_boxes")
    names = [normalized(own) for own in check_class_names(class_names)]
    twice = [own for own, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"{name} has several classes of the name {twice[0]!r}. Give each a name of its own.")
    labels = {own: label for label, own in enumerate(names)}
    columns: dict[str, list[Any]] = {"image": [], "boxes": [], "labels": [], "ignored": [], "item": []}
    problems: list[str] = []
    left_out: list[str] = []
    for record in records:
        good, bad = _checked(record, labels)
        problems += bad
        if bad and not good:
            left_out.append(f"{record.item} is left out, because nothing of it can be used")
            continue
        columns["image"].append(record.image)
        columns["boxes"].append([corners for _, corners in good])
        columns["labels"].append([labels[normalized(box.category)] for box, _ in good])
        columns["ignored"].append([box.ignored for box, _ in good])
        columns["item"].append(record.item)
    if problems and bad_boxes == "raise":
        listed = "\n".join(problems)
        raise ValueError(
            f"{name} has {len(problems)} boxes or pictures that cannot be used; correct them, or skip them with "
            f'bad_boxes="skip":\n{listed}'
        )
    if not columns["item"]:
        raise ValueError(f"{name} has no pictures{' that can be used' if left_out else ''}. Check its path.")
    return BoxData(name, names, _dataset(columns), problems + left_out)


def _checked(record: Record, labels: Mapping[str, int]) -> tuple[list[tuple[Box, list[float]]], list[str]]:
    """The good boxes of a picture with their corners in pixels, and the problems of the others."""
    try:
        size = picture_size(record.image, record.item)
    except ValueError as error:
        return [], [str(error)]
    if record.size is not None and tuple(record.size) != size:
        return [], [
            f"{record.item} has {size[0]} x {size[1]} pixels upright, but its boxes were drawn for {record.size[0]} x "
            f"{record.size[1]}"
        ]
    good, bad = [], []
    for box in record.boxes:
        corners, problem = _corners(box, size)
        if problem is None and not (isinstance(box.category, str) and normalized(box.category) in labels):
            problem = f"its category {box.category!r} is unknown; known are {', '.join(list(labels)[:10])}"
        if problem is None:
            good.append((box, corners))
        else:
            bad.append(f"{record.item}, {box.number} ({box.category}): {problem}")
    return good, bad


def _corners(box: Box, size: tuple[int, int]) -> tuple[list[float], Optional[str]]:
    """The corners of a box in pixels, and what is wrong with them, if anything."""
    try:
        corners = [float(value) for value in box.corners]
    except (TypeError, ValueError):
        corners = []
    if len(corners) != 4:
        return [], f"it must have four numbers, but has {list(box.corners)!r}"
    if not all(map(math.isfinite, corners)):
        return [], f"its corners {corners} are not finite"
    if box.relative:
        corners = [value * side for value, side in zip(corners, (*size, *size))]
    left, top, right, bottom = corners
    if left < -ROUNDING or top < -ROUNDING or right > size[0] + ROUNDING or bottom > size[1] + ROUNDING:
        return [], f"it reaches from {_point(left, top)} to {_point(right, bottom)}, outside of {size[0]} x {size[1]}"
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, float(size[0])), min(bottom, float(size[1]))
    if left >= right or top >= bottom:
        return [], f"it has no area: from {_point(*corners[:2])} to {_point(*corners[2:])}"
    return [left, top, right, bottom], None


def _point(x: float, y: float) -> str:
    return f"({x:g}, {y:g})"


def _dataset(columns: dict[str, list[Any]]) -> Dataset:
    from datasets import Dataset, Features, Image, List, Value

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
