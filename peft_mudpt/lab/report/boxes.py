"""Draws pictures with their boxes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Optional

from ...detection import Detections
from ..data.loading import picture
from ..method import BLUE, GREEN, ORANGE, PINK, SKY, VERMILLION
from ..terminal import printable


if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

COLORS = (VERMILLION, BLUE, GREEN, ORANGE, PINK, SKY)  # of the classes, in turns
SIDE = 240  # pixels of the longer side of a picture in a sheet
GAP = 8  # pixels between pictures
TEXT_SIZE = 13  # pixels
LABELED = "labeled"  # title of the row with the boxes of the data set

Boxes = Sequence[tuple[Sequence[float], int, str]]  # left, top, right and bottom in pixels; the label; what is written


def example_sheet(
    pictures: Dataset, class_names: Sequence[str], found: Mapping[str, Sequence[Optional[Detections]]]
) -> bytes:
    """
    Draw pictures in columns: in the first row with their own boxes, then a row for what each detector found.

    Args:
        pictures: N pictures of `BoxData`.
        class_names: names of the classes, in the order of the labels.
        found: what detectors found in the N pictures, by the title of the row.

    Returns:
        The content of a PNG file.
    """
    from PIL import Image

    columns = []
    for i, example in enumerate(pictures):
        image = picture(example)
        boxes = zip(example["boxes"], example["labels"])
        rows = [
            [(box, label, class_names[label]) for box, label in boxes],
            *(_found(each[i]) for each in found.values()),
        ]
        columns.append([paint_boxes(image, row) for row in rows])
    titles = [LABELED, *found]
    widths = [max(image.width for image in column) for column in columns]
    heights = [max(column[row].height for column in columns) for row in range(len(titles))]
    title_height = 2 * TEXT_SIZE
    size = (sum(widths) + GAP * (len(widths) + 1), sum(heights) + title_height * len(titles) + GAP)
    sheet = Image.new("RGB", size, "white")
    top = 0
    for row, title in enumerate(titles):
        _write(sheet, (GAP, top + GAP // 2), title, "black")
        left = GAP
        for column, width in zip(columns, widths):
            sheet.paste(column[row], (left, top + title_height))
            left += width + GAP
        top += title_height + heights[row]
    file = io.BytesIO()
    sheet.save(file, "png")
    return file.getvalue()


def paint_boxes(image: Image, boxes: Boxes) -> Image:
    """
    Draw boxes on a copy of a picture, whose longer side becomes `SIDE` pixels.

    Args:
        image: the picture.
        boxes: the boxes with their labels and texts.

    Returns:
        The drawing.
    """
    from PIL import ImageDraw

    scale = SIDE / max(image.size)
    drawn = image.convert("RGB").resize([max(1, round(side * scale)) for side in image.size])
    pen = ImageDraw.Draw(drawn)
    for corners, label, _ in boxes:
        pen.rectangle([value * scale for value in corners], outline=_color(label), width=2)
    for corners, label, text in boxes:  # above all frames
        _write(drawn, (corners[0] * scale + 2, corners[1] * scale + 1), text, _color(label))
    return drawn


def _found(found: Optional[Detections]) -> Boxes:
    if found is None:
        return []
    texts = [f"{name} {score:.2f}" for name, score in zip(found.names, found.scores.tolist())]
    return list(zip(found.boxes.tolist(), found.labels.tolist(), texts))[::-1]  # the best is painted last


def _color(label: int) -> str:
    return COLORS[label % len(COLORS)]


def _write(image: Image, place: tuple[float, float], text: str, color: str) -> None:
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(TEXT_SIZE)
    ImageDraw.Draw(image).text(place, printable(text), color, font, stroke_width=2, stroke_fill="white")
