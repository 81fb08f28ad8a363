"""Small pictures in a page."""

import base64
import io

import pytest
from PIL import Image

from peft_mudpt.lab.report.page.thumbnails import ENLARGED, MEGABYTES, SIDE, Thumbnails
from peft_mudpt.lab.run_pictures import RunPictures
from tests.lab.report.made_run import draw, made_run


@pytest.fixture
def pictures(tmp_path):
    """The pictures of a run that has not noted their fingerprints, as those of earlier versions."""
    made_run(tmp_path / "run", tmp_path / "pictures")
    found = RunPictures(tmp_path / "run", "pictures")
    found._identity.pop("pictures")
    return found


def decoded(address):
    kind, content = address.removeprefix("data:image/").split(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert image.format.lower() == kind
    return image


def test_a_large_picture_is_made_small_and_keeps_its_shape(pictures, tmp_path):
    draw(tmp_path / "pictures" / "cat" / "0.png", seed=0, size=(800, 400))
    found = Thumbnails(pictures, most=1).make("training", "cat/0.png")
    assert decoded(found.address).size == (found.width, found.height) == (SIDE, SIDE // 2) and not found.is_small


def test_a_small_picture_keeps_every_pixel(pictures, tmp_path):
    found = Thumbnails(pictures, most=1).make("training", "cat/0.png")
    with Image.open(tmp_path / "pictures" / "cat" / "0.png") as original:
        assert decoded(found.address).tobytes() == original.tobytes() and found.is_small


def test_a_photograph_that_is_not_enlarged_is_compressed(pictures, tmp_path):
    for name, side in (("0", ENLARGED), ("1", ENLARGED - 1)):
        draw(tmp_path / "pictures" / "cat" / f"{name}.png", seed=0, size=(side, side))
    found = [Thumbnails(pictures, most=1).make("training", f"cat/{name}.png") for name in ("0", "1")]
    assert [(decoded(one.address).format, one.is_small) for one in found] == [("JPEG", False), ("PNG", True)]
    assert len(found[0].address) < len(found[1].address) / 2


def test_no_more_pictures_are_made_than_allowed(pictures):
    thumbnails = Thumbnails(pictures, most=1)
    made = [thumbnails.make("training", item) for item in ("cat/0.png", "cat/1.png", "dog/0.png")]
    assert [found is not None for found in made] == [True, False, False]
    assert list(thumbnails.missing.values()) == [2] and "at most 1" in next(iter(thumbnails.missing))


def test_no_more_bytes_are_made_than_allowed(pictures):
    thumbnails = Thumbnails(pictures, most=10)
    thumbnails.bytes = MEGABYTES * 10**6 - 1
    assert thumbnails.make("training", "cat/0.png") is not None
    assert thumbnails.make("training", "cat/1.png") is None


def test_reasons_for_missing_pictures_are_counted(pictures, tmp_path):
    (tmp_path / "pictures" / "cat" / "0.png").write_bytes(b"no picture")
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name / "1.png").unlink()
    thumbnails = Thumbnails(pictures, most=10)
    assert [thumbnails.make("training", f"{name}/{i}.png") for name, i in (("cat", 0), ("cat", 1), ("dog", 1))] == [
        None
    ] * 3
    assert sorted(thumbnails.missing.values()) == [1, 2]
