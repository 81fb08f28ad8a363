"""Classifying files: odd pictures are seen alike everywhere, and damaged ones do not stop the others."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate
from transformers import AutoProcessor, CLIPModel

from peft_mudpt import demo, open_picture
from peft_mudpt.lab.data.loading import TestPictures, TrainingPictures, check_pictures
from peft_mudpt.lab.data.sources import load_folders
from peft_mudpt.lab.data.unlabeled import PictureFiles
from peft_mudpt.lab.predicting import classify
from peft_mudpt.lab.probe import LinearProbe
from peft_mudpt.lab.question import Question
from tests.classifier.test_pictures import COLOR, DEEP, GRAY, cmyk_picture, encoded, with_alpha


PROCESSOR = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil").image_processor
LYING = Image.Exif()
LYING[0x0112] = 6
FRAMES = {"save_all": True, "append_images": [Image.fromarray(255 - COLOR)]}

ODD = {
    "deep.png": encoded(Image.fromarray(DEEP * 257)),
    "deep.tif": encoded(Image.fromarray(DEEP * 16), "TIFF"),
    "floating_point.tif": encoded(Image.fromarray(GRAY / np.float32(255)), "TIFF"),
    "alpha.png": encoded(Image.fromarray(with_alpha(COLOR, 0))),
    "palette.gif": encoded(Image.fromarray(COLOR).quantize(16), "GIF"),
    "cmyk.jpg": encoded(cmyk_picture(COLOR, GRAY), "JPEG"),
    "lying.jpg": encoded(Image.fromarray(COLOR), "JPEG", exif=LYING),
    "frames.webp": encoded(Image.fromarray(COLOR), "WEBP", **FRAMES),
}


def writable_formats():
    Image.init()
    return Image.SAVE


@pytest.fixture(scope="module")
def classifier():
    probe = LinearProbe(CLIPModel.from_pretrained(demo.MODEL_PATH), ["cat", "dog"], PROCESSOR)
    torch.nn.init.normal_(probe.head.weight, generator=torch.Generator().manual_seed(0))
    return probe.eval()


def save(folder, contents):
    """Class folders "cat", with these files, and "dog", with one good picture; the paths of the files."""
    for name, files in {"cat": contents, "dog": {"good.png": encoded(Image.fromarray(COLOR))}}.items():
        (folder / name).mkdir()
        for file, content in files.items():
            (folder / name / file).write_bytes(content)
    return [folder / "cat" / file for file in contents]


def pixels_given_to(classifier, work):
    """The pixel values (N, 3, H, W) that a classifier is given during some work."""
    given = []
    handle = classifier.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    work()
    handle.remove()
    return torch.cat(given)


def classified(classifier, files):
    """The predictions for all files, made by the code of `peft-mudpt predict`."""
    batches = [range(len(files))]
    return [
        prediction for found in classify(classifier, PictureFiles(files), Question(1), batches) for prediction in found
    ]


def test_an_odd_picture_is_the_same_in_training_testing_prediction_and_for_an_exported_file(classifier, tmp_path):
    files = save(tmp_path, ODD)
    split = load_folders(tmp_path).train
    split = split.select([split["item"][:].index(f"cat/{file.name}") for file in files])
    expected = PROCESSOR([open_picture(file) for file in files], return_tensors="pt").pixel_values
    order = np.random.default_rng([0, 0]).permutation(len(files))
    training = TrainingPictures(split, len(files), seed=0, crop_size=None, image_processor=PROCESSOR)
    testing = TestPictures(split, PROCESSOR)
    assert torch.equal(
        default_collate(list(map(training.__getitem__, range(len(files)))))["pixel_values"], expected[order]
    )
    assert torch.equal(default_collate(list(map(testing.__getitem__, range(len(files)))))["pixel_values"], expected)
    for work in (lambda: classifier.predict(files), lambda: classified(classifier, files)):
        assert torch.equal(pixels_given_to(classifier, work), expected)


# by suffix; an older Pillow lacks some
FORMATS = dict(png="PNG", jpg="JPEG", gif="GIF", bmp="BMP", tif="TIFF", webp="WEBP", ppm="PPM", dds="DDS")
FORMATS |= {suffix: format for suffix, format in (("avif", "AVIF"), ("qoi", "QOI")) if format in writable_formats()}


def damaged(number, seed=0):
    """Per format, so many damaged files: cut off, or with wrong bits."""
    rng = np.random.default_rng(seed)
    good = demo.paint("filled red star", "noisy", rng)
    for suffix in FORMATS:
        file = io.BytesIO()
        good.save(file, FORMATS[suffix])
        for i in range(number):
            content = bytearray(file.getvalue())
            if i % 2:
                for place in rng.integers(len(content), size=8):
                    content[place] ^= 1 << int(rng.integers(8))
            else:
                content = content[: rng.integers(len(content))]
            yield f"{i}.{suffix}", bytes(content)


@pytest.mark.filterwarnings("ignore")  # those of Pillow about the damage
def test_of_200_damaged_pictures_of_ten_formats_each_is_named_and_none_stops_the_others(classifier, tmp_path):
    files = save(tmp_path, dict(damaged(20)))
    broken = set()
    for file in files:
        try:
            open_picture(file)
        except ValueError as error:
            assert str(error).startswith(f"{file} cannot be read: ")
            broken.add(file)
    assert {file.suffix[1:] for file in broken} == set(FORMATS)

    with pytest.raises(ValueError) as refused:
        check_pictures(load_folders(tmp_path).train)
    named = [line.split(" cannot be read: ")[0] for line in str(refused.value).splitlines()[1:]]
    assert sorted(named) == sorted(map(str, broken))

    with pytest.warns(UserWarning, match=f"^{len(broken)} of {len(files)} ") as warned:
        names = classifier.predict(files, errors="skip")
    assert [file for file, name in zip(files, names) if name is None] == [file for file in files if file in broken]
    assert all(f", {file}, cannot be read: " in str(warned[0].message) for file in broken)

    predictions = classified(classifier, files)
    assert [prediction.picture for prediction in predictions] == list(map(str, files))
    for file, name, (_, error, answer) in zip(files, names, predictions):
        assert str(file) in error if file in broken else answer.best[0][0] == name
