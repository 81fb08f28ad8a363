"""From the examples of a data set to batches of pixels."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as images
from torch.utils.data import DataLoader
from transformers import AutoProcessor

from peft_mudpt import demo
from peft_mudpt.lab.data.loading import (
    TestPictures,
    TrainingPictures,
    check_pictures,
    picture,
    random_resized_crop,
)


PROCESSOR = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil").image_processor


def split_of(pictures):
    """A split whose labels are the indices of the pictures, stored as a data set of the Hub stores them."""
    features = Features({"image": Image(decode=False), "label": Value("int64"), "item": Value("string")})
    numbers = range(len(pictures))
    columns = {"image": pictures, "label": list(numbers), "item": [f"[{i}]" for i in numbers]}
    return Dataset.from_dict(columns, features=features)


def grays(number):
    """Pictures whose gray level is their index."""
    return split_of([images.new("RGB", (8, 8), (i, i, i)) for i in range(number)])


def noise(number):
    """Pictures of noise that are neither square nor of the size of the CLIP."""
    pixels = np.random.default_rng(0).integers(0, 256, (number, 70, 50, 3), dtype=np.uint8)
    return split_of([images.fromarray(picture) for picture in pixels])


def position_picture(width, height):
    """A picture in which the red channel is the x coordinate, and the green channel the y coordinate."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return images.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


def boxes_of(width, height, number):
    """The boxes of crops, read from their pixels, and which crops are flipped."""
    for seed in range(number):
        crop = np.asarray(random_resized_crop(position_picture(width, height), 32, np.random.default_rng(seed)))
        (left, right), (top, bottom) = crop[0, [0, -1], 0].astype(int), crop[[0, -1], 0, 1].astype(int)
        yield min(left, right), max(left, right), top, bottom, left > right


def test_crops_have_random_areas_proportions_and_flips():
    boxes = list(boxes_of(200, 100, 300))
    shares = np.array([(right - left + 1) * (bottom - top + 1) / 20000 for left, right, top, bottom, _ in boxes])
    ratios = np.array([(right - left + 1) / (bottom - top + 1) for left, right, top, bottom, _ in boxes])
    assert 0.06 < shares.min() < 0.12 and shares.max() > 0.6  # a 4:3 crop covers at most two thirds
    assert 0.70 < ratios.min() < 0.80 and 1.25 < ratios.max() < 1.42
    assert 0.4 < np.mean([box[-1] for box in boxes]) < 0.6


def test_a_crop_is_resized_by_bicubic_interpolation(monkeypatch):
    monkeypatch.setattr(f"{random_resized_crop.__module__}._random_box", lambda *arguments: (3, 5, 39, 35))
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    crop = np.asarray(random_resized_crop(images.fromarray(noise), 16, np.random.default_rng(1)), dtype=float)
    part = torch.tensor(noise[5:35, 3:39]).permute(2, 0, 1)[None].double()  # (1, 3, 30, 36)
    expected = torch.nn.functional.interpolate(part, (16, 16), mode="bicubic", antialias=True)[0].clamp(0, 255)
    expected = expected.permute(1, 2, 0).numpy()
    assert (
        min(np.abs(crop - expected).max(), np.abs(crop[:, ::-1] - expected).max()) <= 2
    )  # of 255: Pillow rounds twice


def test_a_picture_too_long_for_a_random_crop_is_cropped_at_its_center():
    crop = np.asarray(random_resized_crop(position_picture(250, 4), 4, np.random.default_rng(0)))
    assert 120 < crop[..., 0].min() and crop[..., 0].max() < 130


def test_each_epoch_shows_every_training_picture_once_in_another_order():
    pictures = TrainingPictures(grays(7), 21, seed=1, crop_size=None, image_processor=PROCESSOR)
    labels = [pictures[i]["labels"] for i in range(21)]
    epochs = [labels[:7], labels[7:14], labels[14:]]
    assert all(sorted(e) == list(range(7)) for e in epochs) and len({tuple(e) for e in epochs}) == 3


def test_a_sample_depends_only_on_the_seed_and_its_index():
    def show(seed):
        pictures = TrainingPictures(demo_pictures(), 6, seed, crop_size=16, image_processor=PROCESSOR)
        return [pictures[i]["pixel_values"] for i in (5, 2, 5)]

    first, second, other = show(1), show(1), show(2)
    assert all(torch.equal(a, b) for a, b in zip(first, second)) and torch.equal(first[0], first[2])
    assert not all(torch.equal(a, b) for a, b in zip(first, other))


def demo_pictures():
    pictures = demo.load_pictures("plain", 1, seed=0).select(range(3)).cast_column("image", Image(decode=False))
    return pictures.add_column("item", ["a", "b", "c"])


def test_a_batch_is_what_the_image_processor_makes_of_the_pictures():
    samples = TestPictures(demo_pictures(), PROCESSOR)
    (batch,) = DataLoader(samples, 3)
    opened = [picture(example) for example in demo_pictures()]
    pixels = torch.stack([torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255 for image in opened])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PROCESSOR.image_mean, PROCESSOR.image_std))
    torch.testing.assert_close(batch["pixel_values"], (pixels - mean) / std, atol=1e-5, rtol=0)
    assert batch["labels"].tolist() == [0, 1, 2]


def test_pictures_preprocessed_one_by_one_are_bit_equal_to_those_preprocessed_together():
    pictures = noise(3)
    together = PROCESSOR([picture(example) for example in pictures], return_tensors="pt").pixel_values
    (tested,) = DataLoader(TestPictures(pictures, PROCESSOR), 3)
    assert torch.equal(tested["pixel_values"], together)


def test_random_crops_are_bit_equal_to_crops_preprocessed_together():
    pictures, seed = noise(3), 1
    crops = [
        random_resized_crop(picture(pictures[int(index)]), 32, np.random.default_rng([seed, 0, position]))
        for position, index in enumerate(np.random.default_rng([seed, 0]).permutation(3))
    ]
    together = PROCESSOR(crops, return_tensors="pt", do_resize=False, do_center_crop=False).pixel_values
    (trained_on,) = DataLoader(TrainingPictures(pictures, 3, seed, crop_size=32, image_processor=PROCESSOR), 3)
    assert torch.equal(trained_on["pixel_values"], together)


def test_all_pictures_that_cannot_be_read_are_listed_at_once():
    pictures = grays(4).to_list()
    for index, content in ((1, b"no picture"), (3, pictures[3]["image"]["bytes"][:40])):
        pictures[index]["image"] = {"bytes": content, "path": None}
    with pytest.raises(ValueError, match=r"(?s)^2 of 4 .*\[1\] cannot be read.*\[3\] cannot be read"):
        check_pictures(Dataset.from_list(pictures, features=grays(4).features))
