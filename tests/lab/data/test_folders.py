"""Loading pictures from class folders."""

import hashlib
import shutil
import unicodedata

import pytest
from PIL import Image as images

from peft_mudpt.lab.data.loading import picture
from peft_mudpt.lab.data.options import DataOptions
from peft_mudpt.lab.data.sources import load_data, load_folders


def save_pictures(folder, classes):
    """Save the given number of pictures in each class folder, each with its own color."""
    for name, number in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
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
        ({"cat": 1, "__": 1, " ": 1}, None, r"no word: ' ', '__'.*--class_names"),
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


def test_pictures_of_subfolders_belong_to_the_class_folder(tmp_path):
    folder = save_pictures(tmp_path / "pictures", {"cat/indoors": 2, "cat": 1, "dog": 1})
    data = load_folders(folder)
    assert data.train["item"][:] == ["cat/0.png", "cat/indoors/0.png", "cat/indoors/1.png", "dog/0.png"]
    assert data.train["label"][:] == [0, 0, 0, 1]


@pytest.mark.parametrize("splits", [("train", "test"), ("Training", "validation", "TEST")])
def test_folders_of_splits_are_not_taken_for_classes(tmp_path, splits):
    folder = save_pictures(
        tmp_path / "pictures", {f"{split}/{name}": 1 for split in splits for name in ("cat", "dog")}
    )
    with pytest.raises(ValueError, match="splits.*--train_dir.*--test_dir"):
        load_folders(folder)


def test_one_remark_counts_the_files_that_are_left_aside(tmp_path):
    train = save_pictures(tmp_path / "train", {"cat": 1, "dog": 1})
    test = save_pictures(tmp_path / "test", {"cat": 1})
    others = ("train/cat/1.xyz", "train/dog/in/2.XYZ", "test/cat/3.xyz", "train/dog/4", "train/5.png", "train/6.csv")
    for path in others:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "train" / "loop").symlink_to(tmp_path / "train" / "loop")
    inside, beside = load_folders(train, test).remarks
    assert inside.endswith(": 3 .xyz, 1 without a suffix (add one, such as .jpg)")
    assert "beside" in beside and beside.endswith(": 1 .png, 1 .csv, 1 that are links to nothing")


def test_an_empty_class_folder_is_refused_with_what_it_holds(tmp_path):
    folder = save_pictures(tmp_path / "pictures", {"cat": 1, "dog": 0})
    for i in range(3):
        (tmp_path / "pictures" / "dog" / f"{i}.xyz").touch()
    with pytest.raises(ValueError, match=r"dog holds no picture, but 3 \.xyz"):
        load_folders(folder)


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    train = save_pictures(tmp_path / "train", {composed: 1, decomposed: 2, "dog": 1})
    data = load_folders(train, save_pictures(tmp_path / "test", {decomposed: 2}))
    assert data.class_names == [composed, "dog"] and data.train["label"][:] == [0, 0, 0, 1]
    assert data.test["label"][:] == [0, 0]
    assert any("one class" in remark and remark.endswith(f": {composed}") for remark in data.remarks)


def test_a_file_gives_names_to_classes_and_a_remark_lists_the_others(tmp_path):
    folder = save_pictures(tmp_path / "pictures", {"001.Black_footed": 1, "big_dog": 1})
    (tmp_path / "pictures" / "names.txt").write_text("001.Black_footed = black-footed albatross\n")
    options = DataOptions(train_dir=folder, class_names=f"{folder}/names.txt")
    data = load_data(options)
    assert data.class_names == ["black-footed albatross", "big dog"] and data.origin == options
    assert [remark.split(": ")[1] for remark in data.remarks] == ["big_dog"]


def test_a_file_fixes_the_splits(tmp_path):
    folder = save_pictures(tmp_path / "pictures", {"cat": 3, "dog": 3})
    parts = ("train", "validation", "test")
    rows = [f"{name}/{i}.png,{part}" for name in ("cat", "dog") for i, part in enumerate(parts)]
    (tmp_path / "split.csv").write_text("\n".join(["file,split", *rows]))
    data = load_data(DataOptions(train_dir=folder, split=str(tmp_path / "split.csv")))
    for i, part in enumerate(parts):
        assert getattr(data, part)["item"][:] == [f"cat/{i}.png", f"dog/{i}.png"]
    with pytest.raises(ValueError, match="--split .*--test_dir"):
        load_folders(folder, save_pictures(tmp_path / "test", {"cat": 1}), split=tmp_path / "split.csv")


def test_a_class_without_training_pictures_is_refused(tmp_path):
    train, test = (save_pictures(tmp_path / name, {"cat": 2, "dog": 2}) for name in ("train", "test"))
    for i in range(2):
        shutil.copy(f"{train}/dog/{i}.png", f"{test}/dog/{i}.png")
    with pytest.raises(ValueError, match="dog.*test"):
        load_folders(train, test)


def test_damaged_and_empty_pictures_do_not_stop_the_loading(tmp_path):
    folder = save_pictures(tmp_path / "pictures", {"cat": 2, "dog": 2})
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name / "empty.jpg").touch()
    data = load_folders(folder)
    assert len(data.train) == 6 and len(set(data.groups)) == 6 and not data.remarks
