"""What a classifier predicts from, and what it does with pictures that cannot be read."""

import io
import warnings
import weakref

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from transformers import AutoProcessor, CLIPModel

from peft_mudpt import MuDPTClassifier, demo
from tests.classifier.test_pictures import encoded


NAMES = ["filled red star", "hollow blue heart", "filled green circle"]


@pytest.fixture(scope="module")
def classifier():
    model, processor = CLIPModel.from_pretrained(demo.MODEL_PATH), AutoProcessor.from_pretrained(demo.MODEL_PATH)
    return MuDPTClassifier(model.eval(), NAMES, "{}.", processor.tokenizer, processor.image_processor)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [demo.paint(name, "sunset", rng) for name in NAMES]


@pytest.fixture(scope="module")
def expected(classifier, pictures):
    return classifier.predict_proba(classifier.image_processor(pictures, return_tensors="pt").pixel_values)


def column(pictures, **options):
    """A lazy column of `datasets`, as `dataset["image"]` returns it."""
    return Dataset.from_dict({"image": pictures}, features=Features({"image": ImageFeature(**options)}))["image"]


def files(pictures, folder):
    for i, picture in enumerate(pictures):
        picture.save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in range(len(pictures))]


CONTAINERS = {
    "list": lambda pictures, folder: pictures,
    "tuple": lambda pictures, folder: tuple(pictures),
    "generator": lambda pictures, folder: (picture for picture in pictures),
    "files": files,
    "file names": lambda pictures, folder: list(map(str, files(pictures, folder))),
    "files as keys": lambda pictures, folder: dict.fromkeys(files(pictures, folder)).keys(),
    "array of file names": lambda pictures, folder: np.array(list(map(str, files(pictures, folder)))),
    "bytes": lambda pictures, folder: list(map(encoded, pictures)),
    "arrays": lambda pictures, folder: list(map(np.asarray, pictures)),
    "one array": lambda pictures, folder: np.stack(list(map(np.asarray, pictures))),
    "column": lambda pictures, folder: column(pictures),
    "column not decoded": lambda pictures, folder: column(pictures, decode=False),
    "streamed column": lambda pictures, folder: column(pictures).source.to_iterable_dataset()["image"],
    "pixel values": lambda pictures, folder: AutoProcessor.from_pretrained(demo.MODEL_PATH).image_processor(
        pictures, return_tensors="pt"
    )["pixel_values"],
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("batch_size", [2, 32])
def test_pictures_in_any_container_are_classified_alike(
    classifier, pictures, expected, tmp_path, container, batch_size
):
    images = CONTAINERS[container](pictures, tmp_path)
    torch.testing.assert_close(classifier.predict_proba(images, batch_size), expected)


@pytest.mark.parametrize("images", [[], (), iter(()), torch.zeros(0, 3, 32, 32), np.zeros((0, 8, 8, 3), np.uint8)])
def test_no_pictures_have_no_answers(classifier, images):
    assert classifier.predict_proba(images).shape == (0, len(NAMES))


def test_one_picture_is_in_memory_at_a_time(classifier):
    given = []

    def photographs():
        for _ in range(5):
            photograph = Image.new("RGB", (64, 48))
            given.append(weakref.ref(photograph))
            assert sum(picture() is not None for picture in given) <= 2  # this one, and the one before
            yield photograph

    assert len(classifier.predict(photographs())) == 5


class TestRefusing:
    @pytest.mark.parametrize(
        "images",
        [
            "a.png",
            b"content",
            Image.new("RGB", (8, 8)),
            np.zeros((8, 8, 3), np.uint8),
            {"bytes": b"content", "path": None},
            {"a.png", "b.png"},
            io.BytesIO(b"content"),
            None,
            5,
        ],
    )
    def test_what_is_no_series_of_pictures(self, classifier, images):
        with pytest.raises(ValueError, match="images is .*[Gg]ive.*picture"):
            classifier.predict(images)

    @pytest.mark.parametrize("wrong", [5, None, torch.zeros(3, 32, 32), "https://a.b/c.png", np.zeros(3), ["a.png"]])
    def test_an_element_of_another_kind_by_its_position(self, classifier, pictures, wrong):
        with pytest.raises(ValueError, match="^picture 1.* cannot be read: "):
            classifier.predict([pictures[0], wrong])

    def test_a_tensor_of_other_channels(self, classifier):
        with pytest.raises(ValueError, match=r"must be \(N, 3, H, W\)"):
            classifier.predict(torch.zeros(2, 1, 32, 32))

    @pytest.mark.parametrize("number", [0, -1, 2.5, "8", None])
    def test_a_number_of_another_kind(self, classifier, pictures, number):
        with pytest.raises(ValueError, match="batch_size=.* is not a whole number"):
            classifier.predict(pictures, batch_size=number)
        with pytest.raises(ValueError, match="k=.* is not a whole number"):
            classifier.top_k(pictures, k=number)

    @pytest.mark.parametrize("errors", ["raise", "skip"])
    def test_a_streamed_column_that_ends_at_a_picture_names_it(self, classifier, pictures, errors):
        content = [{"bytes": c, "path": None} for c in (encoded(pictures[0]), b"no picture", encoded(pictures[1]))]
        with pytest.raises(ValueError, match="picture 1 cannot be read"):
            classifier.predict(column(content).source.to_iterable_dataset()["image"], errors=errors)

    @pytest.mark.parametrize("setting", [{"do_center_crop": False}, {"crop_size": {"height": 48, "width": 48}}])
    @pytest.mark.parametrize("errors", ["raise", "skip"])
    def test_pixel_values_of_another_size(self, classifier, setting, errors):
        processor = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil", **setting)
        other = MuDPTClassifier(classifier.model, NAMES, "{}.", processor.tokenizer, processor.image_processor)
        with pytest.raises(ValueError, match=r"picture 0 .*\(3, \d\d, 48\), but the model takes \(3, 32, 32\)"):
            other.predict([Image.new("RGB", (48, 32))], errors=errors)

    def test_an_unknown_way_to_handle_errors(self, classifier, pictures):
        with pytest.raises(ValueError, match="errors='ignore' is not one of raise, skip"):
            classifier.predict(pictures, errors="ignore")

    def test_logits_that_are_not_finite(self, pictures):
        clip, processor = CLIPModel.from_pretrained(demo.MODEL_PATH), AutoProcessor.from_pretrained(demo.MODEL_PATH)
        clip.visual_projection.weight.data[0] = torch.nan
        broken = MuDPTClassifier(clip, NAMES, "{}.", processor.tokenizer, processor.image_processor)
        with pytest.raises(ValueError, match="logits of picture 0 .*weights"):
            broken.predict(pictures)


def test_a_missing_image_processor_is_no_reason_to_skip_pictures(pictures):
    clip, processor = CLIPModel.from_pretrained(demo.MODEL_PATH), AutoProcessor.from_pretrained(demo.MODEL_PATH)
    clip.name_or_path = ""
    with pytest.raises(ValueError, match="could hold a image_processor; give one"):
        MuDPTClassifier(clip, NAMES, "{}.", processor.tokenizer).predict(pictures, errors="skip")


def test_a_whole_processor_may_be_given_for_its_image_processor(classifier):
    processor = AutoProcessor.from_pretrained(demo.MODEL_PATH)
    other = MuDPTClassifier(classifier.model, NAMES, "{}.", processor.tokenizer, processor)
    assert other.image_processor is processor.image_processor


def one_broken(pictures, folder):
    (folder / "half.png").write_bytes(encoded(pictures[1])[:100])
    return [pictures[0], folder / "half.png", pictures[1], pictures[2]], "picture 1, .*half.png,"


def one_broken_in_a_column(pictures, folder):
    content = [encoded(picture) for picture in pictures]
    return column([{"bytes": c, "path": None} for c in (content[0], content[1][:100], *content[1:])]), "picture 1"


def one_not_finite(pictures, folder):
    pixels = AutoProcessor.from_pretrained(demo.MODEL_PATH).image_processor(pictures, return_tensors="pt").pixel_values
    wrong = pixels[1].clone()
    wrong[2, 3, 4] = torch.inf
    return torch.stack([pixels[0], wrong, *pixels[1:]]), "picture 1"


@pytest.mark.parametrize("one_wrong", [one_broken, one_broken_in_a_column, one_not_finite])
class TestOneWrongPicture:
    def test_it_is_named(self, classifier, pictures, tmp_path, one_wrong):
        images, name = one_wrong(pictures, tmp_path)
        with pytest.raises(ValueError, match=f"^{name} (cannot be read|has pixel values)"):
            classifier.predict(images)

    def test_skipped_it_has_no_answer_and_the_others_have(self, classifier, pictures, expected, tmp_path, one_wrong):
        images, name = one_wrong(pictures, tmp_path)
        with pytest.warns(UserWarning, match=f"^1 of 4 pictures .*\n{name} ") as warned:
            probabilities = classifier.predict_proba(images, batch_size=2, errors="skip")
        assert len(warned) == 1 and probabilities[1].isnan().all()
        torch.testing.assert_close(probabilities[[0, 2, 3]], expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = classifier.predict(images, errors="skip")
            best = classifier.top_k(images, k=1, errors="skip")
        first, second, third = classifier.predict(pictures)
        assert names == [first, None, second, third]
        assert [[name for name, _ in row] for row in best] == [[first], [], [second], [third]]


def test_if_all_are_skipped_there_is_no_answer(classifier):
    with pytest.warns(UserWarning, match="2 of 2"):
        assert classifier.predict(["gone.png", b"no picture"], errors="skip") == [None, None]
