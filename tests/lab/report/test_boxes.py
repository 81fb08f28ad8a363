"""Pictures with their boxes, read pixel by pixel."""

import io

import torch
from datasets import Dataset
from PIL import Image, ImageColor

from peft_mudpt.detection import Detections
from peft_mudpt.lab.report.boxes import COLORS, GAP, SIDE, TEXT_SIZE, example_sheet, paint_boxes


def test_a_box_is_painted_in_the_color_of_its_class_at_its_place():
    drawn = paint_boxes(Image.new("RGB", (60, 120), "black"), [((30, 60, 50, 110), 1, "")])
    assert drawn.size == (SIDE // 2, SIDE)
    color = ImageColor.getrgb(COLORS[1])
    for place in ((60, 120), (100, 120), (60, 220), (100, 220)):
        assert drawn.getpixel(place) == color
    assert drawn.getpixel((80, 170)) == drawn.getpixel((20, 20)) == (0, 0, 0)


def test_a_sheet_has_a_row_for_labels_and_one_for_each_detector():
    file = io.BytesIO()
    Image.new("RGB", (40, 40), "black").save(file, "png")
    image = {"bytes": file.getvalue(), "path": None}
    columns = {"image": [image] * 2, "boxes": [[[4.0, 4.0, 20.0, 20.0]], []], "labels": [[0], []], "item": ["a", "b"]}
    found = Detections(torch.tensor([[10.0, 10.0, 30.0, 30.0]]), torch.tensor([0.5]), torch.tensor([0]), ["cat"])
    sheet = Image.open(io.BytesIO(example_sheet(Dataset.from_dict(columns), ["cat"], {"after": [None, found]})))
    title = 2 * TEXT_SIZE
    assert sheet.size == (2 * SIDE + 3 * GAP, 2 * (SIDE + title) + GAP)
    color, second = ImageColor.getrgb(COLORS[0]), (2 * GAP + SIDE, 2 * title + SIDE)
    assert sheet.getpixel((GAP + 120, title + 60)) == color  # the right edge of the labeled box
    assert sheet.getpixel((second[0] + 180, second[1] + 120)) == color  # that of the box that was found
    assert sheet.getpixel((GAP + 180, second[1] + 120)) == (0, 0, 0)
