"""Loading pictures from folders, the Hub and the embedded world, and drawing from them."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as images

from peft_mudpt import demo
from peft_mudpt.lab.data.draws import draw, subset
from peft_mudpt.lab.data.loading import picture
from peft_mudpt.lab.data.sources import DataOptions, load_data


def save_pictures(folder, classes):
    """Save the given number of pictures in each class folder, each with its own color."""
    for name, number in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(number):
            color = (i, *hashlib.sha256(f"{folder.name}/{name}".encode()).digest()[:2])
            images.new("RGB", (4, 4), color).save(folder / name / f"{i}.png")
    return str(folder)


def hub(monkeypatch, columns=None, **splits):
    """Let `load_dataset` return these splits, whatever its arguments are."""
    monkeypatch.setattr("datasets.load_dataset", lambda *arguments: DatasetDict(splits))
    return DataOptions(dataset_name="someone/animals", **columns or {})


def examples(number, names=("cat", "wild_dog"), image="image", label="label"):
    features = Features({image: Image(), label: ClassLabel(names=list(names)), "note": Value("string")})
    pictures = [images.new("RGB", (4, 4), (i, i, i)) for i in range(number)]
    labels = [i % len(names) for i in range(number)]
    return Dataset.from_dict({image: pictures, label: labels, "note": ["x"] * number}, features=features)


def test_class_folders_are_classes_in_the_order_of_their_names(tmp_path):
    folder = save_pictures(tmp_path / "pictures", {"wild_dog": 1, "cat": 2})
    data = load_data(DataOptions(train_dir=folder))
    assert data.class_names == ["cat", "wild dog"] and data.train["label"][:] == [0, 0, 1]
    assert data.train["item"][:] == ["cat/0.png", "cat/1.png", "wild_dog/0.png"] and data.test is None


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    data = load_data(DataOptions(train_dir=save_pictures(tmp_path / "pictures", {"train": 1, "test_tube": 1})))
    assert data.class_names == ["test tube", "train"]


def test_a_class_folder_may_be_a_link(tmp_path):
    save_pictures(tmp_path / "elsewhere", {"cat": 2})
    folder = save_pictures(tmp_path / "pictures", {"dog": 1})
    (tmp_path / "pictures" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    assert load_data(DataOptions(train_dir=folder)).train["label"][:] == [0, 0, 1]


def test_files_that_are_not_pictures_are_skipped(tmp_path):
    folder = save_pictures(tmp_path / "pictures", {"cat": 1, "dog": 1})
    (tmp_path / "pictures" / "cat" / "Thumbs.db").touch()
    (tmp_path / "pictures" / "cat" / ".hidden.png").touch()
    assert len(load_data(DataOptions(train_dir=folder)).train) == 2


def test_test_folders_have_the_labels_of_the_training_folders(tmp_path):
    train = save_pictures(tmp_path / "train", {"ant": 1, "cat": 1, "dog": 1})
    test = save_pictures(tmp_path / "test", {"cat": 1, "dog": 2})
    assert load_data(DataOptions(train_dir=train, test_dir=test)).test["label"][:] == [1, 2, 2]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"cat": 1, "dog": 0}, None, "pictures/dog "),
        ({"cat": 1}, None, r"--train_dir .*at least 2; .*\['cat'\]"),
        ({}, None, "--train_dir .*at least 2; .*none"),
        ({"cat": 1, "dog": 1}, {"cat": 1, "cow": 1}, r"--test_dir .* --train_dir .*\['cow'\]"),
    ],
)
def test_folders_that_cannot_be_used_are_named(tmp_path, train, test, message):
    (tmp_path / "pictures").mkdir()
    arguments = {"train_dir": save_pictures(tmp_path / "pictures", train)}
    if test is not None:
        arguments["test_dir"] = save_pictures(tmp_path / "test", test)
    with pytest.raises(ValueError, match=message):
        load_data(DataOptions(**arguments))


def test_a_file_that_is_not_a_picture_is_named(tmp_path):
    folder = save_pictures(tmp_path / "pictures", {"cat": 1, "dog": 1})
    (tmp_path / "pictures" / "cat" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cat/0.png cannot be read"):
        picture(load_data(DataOptions(train_dir=folder)).train[0])


def test_a_truncated_picture_is_named(tmp_path):
    folder = save_pictures(tmp_path / "pictures", {"cat": 1, "dog": 1})
    path = tmp_path / "pictures" / "cat" / "0.jpg"
    images.effect_noise((64, 64), 80).save(path)
    path.write_bytes(path.read_bytes()[:900])
    train = load_data(DataOptions(train_dir=folder)).train
    with pytest.raises(ValueError, match="cat/0.jpg cannot be read"):
        picture(train[train["item"][:].index("cat/0.jpg")])


def test_a_hub_data_set_brings_its_class_names_and_splits(monkeypatch):
    data = load_data(hub(monkeypatch, train=examples(4), validation=examples(2), test=examples(3)))
    assert data.class_names == ["cat", "wild dog"] and data.name == "someone/animals"
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 2, 3)
    assert data.test["item"][:] == ["test[0]", "test[1]", "test[2]"] and data.test["label"][:] == [0, 1, 0]
    assert picture(data.train[3]).getpixel((0, 0)) == (3, 3, 3)


def test_a_data_set_in_a_folder_is_named_after_it_without_its_path(monkeypatch, tmp_path):
    (tmp_path / "pets").mkdir()
    options = replace(hub(monkeypatch, train=examples(4)), dataset_name=str(tmp_path / "pets"))
    assert load_data(options).name == "pets"


def test_columns_of_a_hub_data_set_may_have_other_names(monkeypatch):
    splits = {"train": examples(4, image="img", label="fine_label")}
    with pytest.raises(ValueError, match=r"no column 'image'.*--image_column.*img .*fine_label"):
        load_data(hub(monkeypatch, **splits))
    named = hub(monkeypatch, {"image_column": "img", "label_column": "fine_label"}, **splits)
    assert load_data(named).train["label"][:] == [0, 1, 0, 1]


def test_a_label_column_of_strings_is_refused_with_the_way_out(monkeypatch):
    arguments = hub(monkeypatch, {"label_column": "note"}, train=examples(4))
    with pytest.raises(ValueError, match=r"'note' .*ClassLabel.*class_encode_column\('note'\)"):
        load_data(arguments)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": examples(4)}, r"--dataset_name someone/animals .*'train'.*\['test'\]"),
        ({"train": examples(2, names=("cat",))}, r"at least two classes.* someone/animals .*\['cat'\]"),
    ],
)
def test_a_hub_data_set_that_cannot_be_used_is_refused(monkeypatch, splits, message):
    with pytest.raises(ValueError, match=message):
        load_data(hub(monkeypatch, **splits))


def test_every_style_of_the_embedded_world_is_a_data_set():
    data = load_data(DataOptions(dataset="plain"))
    assert (len(data.train), len(data.validation), len(data.test)) == (32 * 96, 4 * 96, 10 * 96)
    assert data.class_names == list(demo.CLASS_NAMES)
    assert np.asarray(picture(data.test[0])).shape == (32, 32, 3)


def test_without_other_splits_no_picture_is_both_trained_and_tested_on(tmp_path):
    data = load_data(DataOptions(train_dir=save_pictures(tmp_path / "pictures", {"cat": 10, "dog": 7})))
    drawn = draw(data, shots=3, seed=1)
    parts = [part["item"][:] for part in (drawn.train, drawn.validation, drawn.test)]
    assert [len(part) for part in parts] == [6, 5, 5]  # to test on: 3 of 10, 2 of 7
    assert len(set().union(*parts)) == 16


def test_held_out_test_pictures_are_the_same_for_every_number_of_shots_and_every_seed(tmp_path):
    data = load_data(DataOptions(train_dir=save_pictures(tmp_path / "pictures", {"cat": 10, "dog": 10})))
    tested = [draw(data, shots, seed).test["item"][:] for shots, seed in ((1, 1), (16, 1), (1, 2))]
    assert tested[0] == tested[1] == tested[2]
    trained = [draw(data, 1, seed).train["item"][:] for seed in range(6)]
    assert any(trained[0] != other for other in trained[1:])


def test_without_a_validation_split_at_most_four_of_the_remaining_pictures_per_class_validate(tmp_path):
    train = save_pictures(tmp_path / "pictures", {"cat": 9, "dog": 6})
    data = load_data(DataOptions(train_dir=train, test_dir=save_pictures(tmp_path / "test", {"cat": 1, "dog": 1})))
    drawn = draw(data, shots=4, seed=1)
    assert Counter(drawn.validation["label"][:]) == {0: 4, 1: 2}
    assert not set(drawn.validation["item"][:]) & set(drawn.train["item"][:])


def test_a_class_with_fewer_pictures_than_shots_gives_all_and_a_remark_names_it(tmp_path):
    data = load_data(DataOptions(train_dir=save_pictures(tmp_path / "pictures", {"cat": 2, "wild_dog": 5})))
    drawn = draw(data, shots=3, seed=1)
    assert Counter(drawn.train["label"][:]) == {0: 2, 1: 3}
    few, untested = drawn.remarks
    assert "fewer than 3" in few and few.endswith(": cat (2)")
    assert "test" in untested and untested.endswith(": cat")


def test_validation_is_used_for_testing_if_the_test_split_has_no_labels(monkeypatch):
    unlabeled = examples(2).remove_columns("label").add_column("label", [-1, -1])
    unlabeled = unlabeled.cast_column("label", ClassLabel(names=["cat", "wild_dog"]))
    data = load_data(hub(monkeypatch, train=examples(4), validation=examples(3), test=unlabeled))
    assert data.validation is None and data.test["item"][:] == ["validation[0]", "validation[1]", "validation[2]"]


def test_a_remark_lists_names_that_several_classes_share(tmp_path):
    data = load_data(DataOptions(train_dir=save_pictures(tmp_path / "p", {"cat": 1, "wild_dog": 1, "wild dog": 1})))
    assert any("share" in remark and remark.endswith(": wild dog") for remark in draw(data, 1, 1).remarks)


def test_the_labels_of_a_subset_are_positions_in_its_list_of_classes(tmp_path):
    data = load_data(DataOptions(train_dir=save_pictures(tmp_path / "pictures", {"ant": 1, "cat": 2, "dog": 1})))
    part = subset(data.train, [1, 2])
    assert part["label"][:] == [0, 0, 1] and part["item"][:] == ["cat/0.png", "cat/1.png", "dog/0.png"]
