"""Decoded pictures and pixel values are kept within a limit."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from peft_mudpt import demo
from peft_mudpt.lab.data import memory
from peft_mudpt.lab.data.few_shot_data import dataset_of_files
from peft_mudpt.lab.data.memory import PictureMemory


PROCESSOR = AutoImageProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")
SIDE = demo.SIZE
BYTES_OF_VALUES = 3 * SIDE * SIDE * 4


@pytest.fixture
def opened(monkeypatch):
    """The names of the pictures that are decoded, in turn."""
    names = []
    decode = memory.open_picture

    def counted(source, name=None):
        names.append(Path(name).name)
        return decode(source, name)

    monkeypatch.setattr(memory, "open_picture", counted)
    return names


@pytest.fixture
def gray(tmp_path):
    """Saves gray pictures, and makes a split of them."""

    def save(*levels, folder="pictures", side=SIDE):
        (tmp_path / folder).mkdir(exist_ok=True)
        paths = [str(tmp_path / folder / f"{i}.png") for i in range(len(levels))]
        for path, level in zip(paths, levels):
            Image.fromarray(np.full((side, side, 3), level, dtype=np.uint8)).save(path)
        return dataset_of_files(paths, [0] * len(paths), [Path(path).name for path in paths])

    return save


def memory_of(limit):
    kept = PictureMemory()
    kept.begin(limit)
    return kept


def levels_of(rows):
    """The gray levels that pixel values come from."""
    scale = PROCESSOR.rescale_factor
    undo = [row[0, 0, 0] * PROCESSOR.image_std[0] + PROCESSOR.image_mean[0] for row in rows]
    return [round(value.item() / scale) for value in undo]


def test_a_picture_is_decoded_once_whatever_is_asked_of_it_and_wherever_it_lies(gray, opened):
    kept, pictures = memory_of(1e9), gray(10, 20)
    assert kept.errors(pictures) == []
    assert levels_of(kept.pixel_values(pictures, PROCESSOR)) == [10, 20]
    assert [image.getpixel((0, 0))[0] for image in kept.opened(gray(20, 10, folder="copies"))] == [20, 10]
    kept.begin(1e9)  # the next run of the process
    assert levels_of(kept.pixel_values(pictures, PROCESSOR)) == [10, 20]
    assert sorted(opened) == ["0.png", "1.png"]


def test_pixel_values_equal_those_of_a_picture_by_itself_to_the_last_bit(gray):
    pictures = gray(*range(0, 250, 5))
    rows = memory_of(1e9).pixel_values(pictures, PROCESSOR)
    for example, row in zip(pictures, rows):
        image = Image.open(example["image"]["path"])
        assert torch.equal(row, PROCESSOR(image, return_tensors="pt").pixel_values[0])


def test_pictures_that_do_not_fit_are_left_to_be_decoded_for_each_use(gray):
    kept, pictures = memory_of(2.5 * BYTES_OF_VALUES), gray(10, 20, 30)
    assert [row is not None for row in kept.pixel_values(pictures, PROCESSOR)] == [True, True, False]
    assert memory_of(0).pixel_values(pictures, PROCESSOR) == [None] * 3
    assert memory_of(0).opened(pictures) == [None] * 3


def test_what_a_run_uses_is_dropped_only_by_the_next_run(gray):
    kept, first, second = memory_of(2 * BYTES_OF_VALUES), gray(10, 20), gray(30, folder="other")
    kept.pixel_values(first, PROCESSOR)
    assert kept.pixel_values(second, PROCESSOR) == [None]
    kept.begin(2 * BYTES_OF_VALUES)
    assert levels_of(kept.pixel_values(second, PROCESSOR)) == [30]


def test_a_lower_limit_frees_memory(gray):
    kept, pictures = memory_of(1e9), gray(10, 20)
    kept.pixel_values(pictures, PROCESSOR)
    kept.begin(0)
    assert kept.pixel_values(pictures, PROCESSOR) == [None, None]


@pytest.mark.parametrize("with_its_old_times", [False, True])
def test_a_picture_that_was_replaced_is_decoded_anew(gray, monkeypatch, with_its_old_times):
    monkeypatch.setattr("peft_mudpt.lab.data.fingerprints.SETTLED", -1)  # as if the file had lain there for long
    kept, pictures = memory_of(1e9), gray(10)
    path = pictures[0]["image"]["path"]
    assert levels_of(kept.pixel_values(pictures, PROCESSOR)) == [10]
    before = os.stat(path)
    gray(90)
    if with_its_old_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert os.stat(path).st_size == before.st_size
    assert levels_of(kept.pixel_values(pictures, PROCESSOR)) == [90]


def test_another_image_processor_gives_other_pixel_values(gray):
    kept, pictures = memory_of(1e9), gray(10)
    other = AutoImageProcessor.from_pretrained(demo.MODEL_PATH, backend="pil", image_mean=[0.1] * 3)
    first, second = (kept.pixel_values(pictures, one)[0] for one in (PROCESSOR, other))
    assert not torch.equal(first, second)


def test_a_picture_that_cannot_be_read_is_named(tmp_path, gray):
    pictures = gray(10, 20)
    Path(pictures[1]["image"]["path"]).write_bytes(b"no picture")
    for ask in (memory_of(1e9).opened, lambda split: memory_of(1e9).pixel_values(split, PROCESSOR)):
        with pytest.raises(ValueError, match="1.png cannot be read"):
            ask(pictures)


def test_every_picture_that_cannot_be_read_is_named(gray):
    pictures = gray(10, 20, 30)
    Path(pictures[0]["image"]["path"]).unlink()
    Path(pictures[2]["image"]["path"]).write_bytes(b"no picture")
    first, second = memory_of(1e9).errors(pictures)
    assert "0.png cannot be read" in first and "2.png cannot be read" in second
