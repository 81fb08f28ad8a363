"""Reading pictures in batches, in this process or in others."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, CLIPModel

from peft_mudpt import MuDPTClassifier, demo
from peft_mudpt.classifier import batches
from peft_mudpt.classifier.batches import PictureBatches, in_ranges, read_batches
from peft_mudpt.classifier.pictures import open_picture, pixel_values
from tests.classifier.test_prediction import column


PROCESSOR = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")
NAMES = ["filled red star", "hollow blue heart", "filled green circle"]


@pytest.fixture(scope="module")
def pictures():
    """Nine pictures of different sizes."""
    rng = np.random.default_rng(0)
    return [demo.paint(NAMES[i % 3], "sunset", rng).resize((30 + 7 * i, 50)) for i in range(9)]


@pytest.fixture(scope="module")
def classifier():
    model = CLIPModel.from_pretrained(demo.MODEL_PATH).eval()
    return MuDPTClassifier(model, NAMES, "{}.", PROCESSOR.tokenizer, PROCESSOR.image_processor)


@pytest.mark.parametrize("at_once", [1, 5_000, 1 << 22])
def test_pictures_that_are_preprocessed_together_have_the_bits_of_each_alone(pictures, at_once, monkeypatch):
    monkeypatch.setattr(batches, "PIXELS_AT_ONCE", at_once)
    found = PictureBatches(pictures, PROCESSOR.image_processor)[range(1, 9)]
    alone = [pixel_values(open_picture(picture), PROCESSOR.image_processor) for picture in pictures[1:]]
    assert torch.equal(found.pixels, torch.stack(alone)) and found.errors == {}


def test_a_picture_that_cannot_be_read_has_an_error_at_its_place(pictures):
    given = [pictures[0], "gone.png", pictures[1], None]
    found = PictureBatches(given, PROCESSOR.image_processor)[range(4)]
    assert len(found.pixels) == 2 and sorted(found.errors) == [1, 3]
    assert "picture 1, gone.png, cannot be read" in found.errors[1]


def test_a_picture_that_cannot_be_preprocessed_has_an_error_and_the_others_their_pixels(pictures):
    def refuses_wide_ones(images, **options):
        if any(image.width > 80 for image in (images if isinstance(images, list) else [images])):
            raise ValueError("too wide")
        return PROCESSOR.image_processor(images, **options)

    refuses_wide_ones.backend = "pil"
    found = PictureBatches(pictures, refuses_wide_ones)[range(9)]
    assert found.errors == {8: "too wide"} and len(found.pixels) == 8


def test_batches_come_in_order_from_several_processes(pictures):
    source = PictureBatches(pictures, PROCESSOR.image_processor)
    ranges = in_ranges(0, 9, 2)
    alone, by_workers = (list(read_batches(source, ranges, workers)) for workers in (0, 2))
    assert [batch.names for batch in by_workers] == [batch.names for batch in alone]
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(alone, by_workers))


def test_ranges_cover_every_position_once():
    assert in_ranges(3, 8, 2) == [range(3, 5), range(5, 7), range(7, 8)]
    assert in_ranges(3, 3, 2) == []


@pytest.mark.parametrize("given", [list, column], ids=["list", "column of datasets"])
def test_workers_change_no_bit_of_the_probabilities_and_no_random_number(classifier, pictures, given):
    images = given(pictures)
    torch.manual_seed(0)
    assert torch.equal(
        classifier.predict_proba(images, 4, num_workers=2), classifier.predict_proba(images, 4, num_workers=0)
    )
    drawn = torch.rand(1)
    assert torch.equal(drawn, torch.manual_seed(0) and torch.rand(1))


def test_pictures_that_workers_cannot_read_are_skipped_or_named(classifier, pictures):
    images = [*pictures[:4], "gone.png", *pictures[4:]]
    with pytest.warns(UserWarning, match="1 of 10 pictures"):
        skipped = classifier.predict_proba(images, 4, errors="skip", num_workers=1)
    with pytest.warns(UserWarning, match="1 of 10 pictures"):
        expected = classifier.predict_proba(images, 4, errors="skip")
    assert torch.equal(skipped.nan_to_num(-1), expected.nan_to_num(-1))
    with pytest.raises(ValueError, match="picture 4, gone.png, cannot be read"):
        classifier.predict(images, 4, num_workers=1)


def test_workers_need_a_sequence(classifier, pictures):
    with pytest.raises(ValueError, match="num_workers=2 .*sequence.* generator"):
        classifier.top_k((picture for picture in pictures), num_workers=2)


def test_a_negative_number_of_workers_is_refused(classifier, pictures):
    with pytest.raises(ValueError, match="num_workers.*-1"):
        classifier.predict(pictures, num_workers=-1)
