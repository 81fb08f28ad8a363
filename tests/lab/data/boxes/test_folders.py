"""The formats and splits of folders with boxes."""

import json
import shutil

import pytest

from peft_mudpt.lab.data.boxes import BoxDataOptions, load_box_data
from tests.lab.data.boxes.conftest import NAMES, as_objects, write_coco, write_voc, write_yolo


def coco_of_splits(root):
    for split in ("train", "val"):
        file = write_coco(root / "made" / split)
        (root / "data" / "annotations").mkdir(parents=True, exist_ok=True)
        shutil.copytree(file.parent / "images", root / "data" / split)
        shutil.copy(file, root / "data" / "annotations" / f"instances_{split}.json")
    return root / "data"


def roboflow(root):
    for split in ("train", "valid", "test"):
        file = write_coco(root / "made" / split)
        shutil.copytree(file.parent / "images", root / "data" / split)
        shutil.copy(file, root / "data" / split / "_annotations.coco.json")
    return root / "data"


def coco_without_splits(root):
    file = write_coco(root / "made")
    shutil.copytree(file.parent / "images", root / "data")
    shutil.copy(file, root / "data")
    return root / "data"


def voc_of_splits(root):
    folder = write_voc(root / "data")
    (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    (folder / "ImageSets" / "Main" / "test.txt").write_text("c\n")
    return folder


def voc_without_splits(root):
    folder = write_voc(root / "data")
    shutil.rmtree(folder / "ImageSets")
    return folder


def yolo(root):
    return write_yolo(root / "data").parent


LAYOUTS = {
    "COCO with splits": (coco_of_splits, 3, 3),
    "Roboflow": (roboflow, 3, 3),
    "COCO without splits": (coco_without_splits, 3, None),
    "Pascal VOC with splits": (voc_of_splits, 2, 1),
    "Pascal VOC without splits": (voc_without_splits, 3, None),
    "YOLO": (yolo, 3, None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_format_and_the_splits_of_a_folder_are_found(layout, tmp_path):
    write, train, test = LAYOUTS[layout]
    data = load_box_data(BoxDataOptions(train_dir=str(write(tmp_path))))
    assert data.class_names == NAMES and data.name == "data"
    assert (len(data.train), data.test and len(data.test)) == (train, test)


def test_a_split_may_be_named(tmp_path):
    folder = str(roboflow(tmp_path))
    data = load_box_data(BoxDataOptions(train_dir=folder, train_split="valid", test_split="train"))
    assert "/valid/" in data.train[0]["image"]["path"] and "/train/" in data.test[0]["image"]["path"]
    with pytest.raises(ValueError, match="no split 'dev'. Splits found: .*valid"):
        load_box_data(BoxDataOptions(train_dir=folder, train_split="dev"))
    shutil.rmtree(tmp_path / "data" / "train")
    with pytest.raises(ValueError, match="none of the name 'train'.*--train_split"):
        load_box_data(BoxDataOptions(train_dir=folder))


def test_test_pictures_may_be_in_another_folder_with_other_numbers_of_the_classes(tmp_path):
    train = coco_without_splits(tmp_path / "one")

    def renumber(content):
        for category in content["categories"]:
            category["id"] = 100 - category["id"]
        for annotation in content["annotations"]:
            annotation["category_id"] = 100 - annotation["category_id"]

    test = write_coco(tmp_path / "two", renumber)
    shutil.move(test, test.parent / "images")
    data = load_box_data(BoxDataOptions(train_dir=str(train), test_dir=str(test.parent / "images")))
    names = [[data.class_names[label] for label in own] for own in (data.train["labels"][:] + data.test["labels"][:])]
    assert names[:3] == names[3:] == [["red star", "cat"], [], ["cat"]]


def test_test_pictures_of_an_unknown_class_are_refused_by_name(tmp_path):
    train = coco_without_splits(tmp_path / "one")

    def rename(content):
        content["categories"][0]["name"] = "blue star"

    test = write_coco(tmp_path / "two", rename)
    shutil.move(test, test.parent / "images")
    with pytest.raises(ValueError, match="classes blue star, which .* lacks"):
        load_box_data(BoxDataOptions(train_dir=str(train), test_dir=str(test.parent / "images")))


def test_a_folder_without_boxes_is_refused_with_the_formats(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError, match="YOLO.*Pascal VOC.*COCO"):
        load_box_data(BoxDataOptions(train_dir=str(tmp_path)))
    with pytest.raises(ValueError, match="is not a folder"):
        load_box_data(BoxDataOptions(train_dir=str(tmp_path / "missing")))


def test_bad_boxes_are_raised_or_skipped_as_the_option_says(tmp_path):
    folder = coco_without_splits(tmp_path)
    file = folder / "instances.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] = 0
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no area"):
        load_box_data(BoxDataOptions(train_dir=str(folder)))
    data = load_box_data(BoxDataOptions(train_dir=str(folder), bad_boxes="skip"))
    assert len(data.remarks) == 1 and "no area" in data.remarks[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"test_dir": "x"}, "--test_dir needs --train_dir"),
        ({"train_split": "train"}, "--train_split needs"),
        ({"bad_boxes": "drop"}, "--bad_boxes"),
        ({"box_format": "xywh"}, "--box_format"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options, words):
    with pytest.raises(ValueError, match=words):
        BoxDataOptions(**options)


def test_an_unknown_style_of_scenes_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'sunrise'.*faded"):
        load_box_data(BoxDataOptions(dataset="sunrise"))


def test_a_data_set_of_the_hub_is_loaded_by_its_splits(tmp_path):
    pictures = as_objects(tmp_path / "made")
    for split in ("train", "validation"):
        pictures.to_parquet(tmp_path / "data" / f"{split}.parquet")
    data = load_box_data(BoxDataOptions(dataset_name=str(tmp_path / "data")))
    assert data.class_names == NAMES and (len(data.train), len(data.test)) == (3, 3)
    with pytest.raises(ValueError, match="no split 'dev'. Splits found: train, validation"):
        load_box_data(BoxDataOptions(dataset_name=str(tmp_path / "data"), test_split="dev"))


def test_a_category_that_only_groups_others_is_no_class(tmp_path):
    def group(content):
        for category in content["categories"]:
            category["supercategory"] = "things"
        content["categories"].append({"id": 0, "name": "things", "supercategory": "none"})

    file = write_coco(tmp_path, group)
    shutil.move(file, tmp_path / "images")
    assert load_box_data(BoxDataOptions(train_dir=str(tmp_path / "images"))).class_names == NAMES


def test_a_file_beside_the_splits_is_not_taken_for_the_boxes(tmp_path):
    folder = roboflow(tmp_path)
    (folder / "info.json").write_text("{}")
    assert len(load_box_data(BoxDataOptions(train_dir=str(folder))).test) == 3


def test_a_data_set_in_a_folder_is_named_without_its_path(tmp_path):
    as_objects(tmp_path / "made").to_parquet(tmp_path / "data" / "train.parquet")
    data = load_box_data(BoxDataOptions(dataset_name=str(tmp_path / "data")))
    assert data.name == "data" and data.train["item"][0].startswith("data/train")
