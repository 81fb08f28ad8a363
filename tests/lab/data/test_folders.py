"""Loading pictures from class folders."""

import hashlib

import pytest
from PIL import Image as images

from peft_mudpt.lab.data.loading import picture
from peft_mudpt.lab.data.options import DataOptions
from peft_mudpt.lab.data.sources import load_data


def save_pictures(folder, classes):
    """Save the given number of pictures in each class folder, each with its own color."""
    for name, number in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(number):
            color = (i, *hashlib.sha256(f"{folder.name}/{name}".encode()).digest()[:2])
            images.new("RGB", (4, 4), color).save(folder / name / f"{i}.png")
    return str(folder)


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
