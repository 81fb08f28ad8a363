"""Finding the pictures of a finished run again."""

import json

import pytest
from datasets import Dataset

from peft_mudpt.lab.data.few_shot_data import FewShotData
from peft_mudpt.lab.run_pictures import RunPictures
from tests.lab.report.made_run import draw, made_run


@pytest.fixture
def folder(tmp_path):
    return made_run(tmp_path / "run", tmp_path / "pictures")


def change(folder, **options):
    """Change what a run has noted of itself."""
    identity = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**identity, **options}))


def test_pictures_are_found_with_their_classes(folder, tmp_path):
    pictures = RunPictures(folder, "pictures")
    assert pictures.find("training", "dog/1.png")["path"] == str(tmp_path / "pictures" / "dog" / "1.png")
    assert pictures.find("test", "cat/test 3.png")["path"] == str(tmp_path / "pictures" / "cat" / "test 3.png")
    assert pictures.classes("training") == {f"{name}/{i}.png": name for name in ("cat", "dog", "cow") for i in (0, 1)}


def test_test_pictures_are_found_in_their_own_folder(folder, tmp_path):
    change(folder, test_dir=str(tmp_path / "others"))
    (tmp_path / "pictures").rename(tmp_path / "others")
    draw(tmp_path / "pictures" / "cat" / "0.png", seed=0)
    pictures = RunPictures(folder, "pictures")
    assert pictures.find("test", "cat/test 3.png")["path"].startswith(str(tmp_path / "others"))
    assert pictures.find("training", "cat/0.png")["path"].startswith(str(tmp_path / "pictures"))


def test_a_picture_that_was_changed_or_removed_is_not_found(folder, tmp_path):
    draw(tmp_path / "pictures" / "dog" / "1.png", seed=99)
    (tmp_path / "pictures" / "dog" / "0.png").unlink()
    pictures = RunPictures(folder, "pictures")
    with pytest.raises(ValueError, match="changed since the run"):
        pictures.find("training", "dog/1.png")
    with pytest.raises(ValueError, match="not where they were"):
        pictures.find("training", "dog/0.png")


@pytest.mark.parametrize("item", ["../secret.png", "cat/../../secret.png", "/secret.png"])
def test_no_picture_outside_the_folder_of_pictures_is_found(folder, tmp_path, item):
    draw(tmp_path / "secret.png", seed=0)
    with pytest.raises(ValueError, match="lead out"):
        RunPictures(folder, "pictures").find("training", item)


def test_without_the_identity_of_the_run_no_picture_is_found(folder):
    (folder / "run.json").unlink()
    pictures = RunPictures(folder, "pictures")
    assert pictures.classes("training") == {}
    with pytest.raises(ValueError, match="run.json"):
        pictures.find("training", "dog/1.png")


def data_set(name, **splits) -> FewShotData:
    """A data set of pictures whose bytes say what they are."""
    made = {}
    for part, number in splits.items():
        items = [f"{part}[{i}]" for i in range(number)]
        images = [{"bytes": f"{name} {item}".encode(), "path": None} for item in items]
        made[part] = Dataset.from_dict({"image": images, "label": [0] * number, "item": items})
    return FewShotData(name, ["cat", "dog"], "{}.", **made)


def test_pictures_of_other_sources_are_found_in_their_data_sets(folder, monkeypatch):
    change(folder, train_dir=None, dataset_name="some/pictures", protocol="cross-dataset", pictures={})
    monkeypatch.setattr("peft_mudpt.lab.run_pictures.load_data", lambda _: data_set("source", train=3, test=2))
    monkeypatch.setattr("peft_mudpt.lab.run_pictures.load_named", lambda name, _: data_set(name, train=1, test=2))
    pictures = RunPictures(folder, "some/pictures")
    places = [("training", "train[2]"), ("some/pictures", "test[1]"), ("dtd", "test[1]")]
    found = [pictures.find(*place)["bytes"] for place in places]
    assert found == [b"source train[2]", b"source test[1]", b"dtd test[1]"]
    with pytest.raises(ValueError, match="does not hold them"):
        pictures.find("dtd", "test[2]")


def test_a_data_set_that_is_gone_is_looked_for_once(folder, monkeypatch):
    change(folder, train_dir=None, dataset="dtd", coop_root=str(folder / "nowhere"))
    pictures, asked = RunPictures(folder, "dtd"), []

    def load(options):
        asked.append(options)
        raise ValueError("nowhere is not a folder")

    monkeypatch.setattr("peft_mudpt.lab.run_pictures.load_data", load)
    for item in ("a.png", "b.png"):
        with pytest.raises(ValueError, match="cannot be loaded: nowhere is not a folder"):
            pictures.find("training", item)
    assert len(asked) == 1
