"""Every source of boxes gives the same form, and names what is wrong in it."""

import math
import shutil

import pytest

from peft_mudpt.lab.data.boxes import boxes_from_dataset, load_boxes_from_hub, load_coco_json, load_voc, load_yolo
from tests.lab.data.boxes.conftest import (
    NAMES,
    PICTURES,
    as_objects,
    write_coco,
    write_pictures,
    write_voc,
    write_yolo,
)


SOURCES = {
    "coco": lambda root: load_coco_json(write_coco(root), root / "images"),
    "voc": lambda root: load_voc(write_voc(root)),
    "yolo": lambda root: load_yolo(write_yolo(root)),
    "objects": lambda root: boxes_from_dataset(as_objects(root / "images")),
    "objects in rows": lambda root: boxes_from_dataset(as_objects(root / "images", as_rows=True)),
    "objects by corners": lambda root: boxes_from_dataset(
        as_objects(root / "images", "pascal_voc"), box_format="pascal_voc"
    ),
    "objects by centers": lambda root: boxes_from_dataset(as_objects(root / "images", "yolo"), box_format="yolo"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_boxes_in_pixels_of_upright_pictures(source, tmp_path, expected):
    data = SOURCES[source](tmp_path / "data")
    assert data.class_names == NAMES and data.remarks == []
    assert set(data.pictures.column_names) == {"image", "boxes", "labels", "ignored", "item"}
    for example, (boxes, labels) in zip(data.pictures, expected, strict=True):
        assert example["labels"] == labels
        assert example["boxes"] == [pytest.approx(box, abs=1e-3) for box in boxes]
        assert len(example["ignored"]) == len(labels)


@pytest.mark.parametrize("source", ["coco", "voc"])
def test_crowds_and_difficult_objects_are_marked(source, tmp_path):
    assert SOURCES[source](tmp_path / "data").pictures["ignored"][:] == [[False, False], [], [True]]


BAD = {
    "outside": (-8, 3, 20, 15, "cat"),
    "no area": (4, 3, 4, 15, "cat"),
    "not finite": (4, math.nan, 20, 15, "cat"),
    "unknown": (4, 3, 20, 15, "unicorn"),
}


def with_bad(box):
    return {**PICTURES, "a": (40, 30, [PICTURES["a"][2][0], box])}


@pytest.mark.parametrize("problem", BAD)
@pytest.mark.parametrize("source", ["voc", "yolo"])
def test_a_bad_box_is_named_with_its_picture_or_skipped_with_a_remark(problem, source, tmp_path):
    pictures = with_bad(BAD[problem])
    if source == "voc":
        path, number = write_voc(tmp_path / "data", pictures), "object 1"
        load = lambda **options: load_voc(path, class_names=NAMES, **options)  # noqa: E731
    else:
        path, number = write_yolo(tmp_path / "data", pictures), "line 2"
        load = lambda **options: load_yolo(path, **options)  # noqa: E731
    with pytest.raises(ValueError, match=rf"1 boxes.*\n(train/images/)?a(\.jpg)?, {number}.*{problem}"):
        load()
    data = load(bad_boxes="skip")
    assert len(data.remarks) == 1 and number in data.remarks[0]
    assert list(map(len, data.pictures["boxes"][:])) == [1, 0, 1]


def test_all_bad_boxes_of_a_file_are_named_at_once(tmp_path):
    def spoil(content):
        bbox = iter(([0, 0, 41, 30], [0, 0, 0, 5], [1, 2, 3]))
        for annotation in content["annotations"]:
            annotation["bbox"] = next(bbox)

    path = write_coco(tmp_path / "data", spoil)
    with pytest.raises(ValueError, match="3 boxes") as error:
        load_coco_json(path, path.parent / "images")
    for words in ("a.jpg, annotation 70", "a.jpg, annotation 71", "c.jpg, annotation 900", "41", "[1, 2, 3]"):
        assert words in str(error.value)
    data = load_coco_json(path, path.parent / "images", bad_boxes="skip")
    assert data.pictures["item"][:] == ["b.jpg"]  # a picture of skipped boxes is not one without objects
    assert len(data.remarks) == 5 and "a.jpg is left out" in data.remarks[3]


def test_a_box_that_rounding_put_beyond_the_edge_is_cut_there(tmp_path):
    def shift(content):
        content["annotations"][0]["bbox"] = [-0.3, 0, 40.4, 30.2]

    path = write_coco(tmp_path / "data", shift)
    assert load_coco_json(path, path.parent / "images").pictures[0]["boxes"][0] == [0, 0, 40, 30]


def test_a_category_of_coco_that_is_missing_is_named(tmp_path):
    path = write_coco(tmp_path / "data", lambda content: content["annotations"][0].update(category_id=4))
    with pytest.raises(ValueError, match=r"a.jpg, annotation 70 \(4\).*unknown; known are cat, red star"):
        load_coco_json(path, path.parent / "images")


def test_boxes_drawn_for_another_size_are_refused_with_the_picture(tmp_path):
    path = write_coco(tmp_path / "data", lambda content: content["images"][0].update(width=50, height=30))
    with pytest.raises(ValueError, match="c.jpg has 30 x 50 pixels upright, but its boxes were drawn for 50 x 30"):
        load_coco_json(path, path.parent / "images")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c.pop("images"), "'images'"),
        (lambda c: c["annotations"][0].update(image_id=1), "annotation 0 is of no picture"),
        (lambda c: c["images"][0].update(id=7), "'images' needs a whole number of its own"),
        (lambda c: c["categories"][0].update(id=None), "'categories' needs a whole number"),
        (lambda c: c["categories"][0].update(name="cat"), "several classes of the name 'cat'"),
        (lambda c: c["categories"][0].pop("name"), "class_names=.* is not"),
        (lambda c: c["images"][0].update(file_name="d.jpg"), "d.jpg cannot be read"),
        (lambda c: [c["images"].clear(), c["annotations"].clear()], "no pictures"),
    ],
)
def test_a_malformed_coco_file_is_refused_by_name(change, words, tmp_path):
    path = write_coco(tmp_path / "data", change)
    with pytest.raises(ValueError, match=words):
        load_coco_json(path, path.parent / "images")


def test_a_split_of_voc_has_its_pictures_and_the_classes_of_all(tmp_path):
    root = write_voc(tmp_path / "data")
    data = load_voc(root, "train")
    assert data.pictures["item"][:] == ["a", "c"] and data.class_names == NAMES
    with pytest.raises(ValueError, match="split 'test'.*found: train"):
        load_voc(root, "test")
    (root / "Annotations" / "c.xml").unlink()
    with pytest.raises(ValueError, match="without an XML file: c"):
        load_voc(root, "train")
    (root / "Annotations" / "a.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match="a.xml cannot be read as XML"):
        load_voc(root)
    with pytest.raises(ValueError, match="holds no XML files"):
        load_voc(tmp_path)


def test_yolo_folders_of_ultralytics_are_read_too(tmp_path, expected):
    path = write_yolo(tmp_path / "data", yaml="path: .\ntrain: [train/images]\nnames: {0: cat, 1: red star}\n")
    assert load_yolo(path).pictures["labels"][:] == [labels for _, labels in expected]


@pytest.mark.parametrize(
    "yaml, words",
    [
        ("names: [cat]\n", "split 'train'.*none"),
        ("train: elsewhere\nnames: [cat]\n", "elsewhere, is missing"),
        ("train: train/images\n", "'names'"),
        ("train: train/images\nnames: {1: cat}\n", "'names'"),
        ("train: [\n", "YAML"),
        ("- 1\n", "must hold the names"),
        ("train: train/images\nnames: [cat]\n", r"a.jpg, line 1 \(number 1\).*unknown"),
    ],
)
def test_a_malformed_yolo_file_is_refused_by_name(yaml, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        load_yolo(write_yolo(tmp_path / "data", yaml=yaml))


def test_yolo_pictures_without_any_labels_are_in_the_wrong_place(tmp_path):
    path = write_yolo(tmp_path / "data")
    (path.parent / "train" / "labels").rename(path.parent / "labels")
    with pytest.raises(ValueError, match="'labels' must lie beside"):
        load_yolo(path)


def test_yolo_polygons_are_named_and_not_taken_for_boxes(tmp_path):
    path = write_yolo(tmp_path / "data")
    (path.parent / "train" / "labels" / "a.txt").write_text("0 .1 .1 .2 .1 .2 .2\n")
    with pytest.raises(ValueError, match="a.jpg, line 1.*four numbers"):
        load_yolo(path)


def test_objects_without_names_or_fields_are_refused_by_name(tmp_path):
    from datasets import List, Value

    pictures = as_objects(tmp_path / "images")
    for options, words in (
        (dict(objects_column="boxes"), "no column 'boxes'"),
        (dict(image_column="objects"), "does not hold pictures"),
        (dict(box_field="box"), "no field 'box'. Fields found: bbox, category"),
        (dict(box_format="xyxy"), "box_format='xyxy'"),
    ):
        with pytest.raises(ValueError, match=words):
            boxes_from_dataset(pictures, **options)
    plain = pictures.cast_column("objects", {"bbox": List(List(Value("float64"))), "category": List(Value("int64"))})
    with pytest.raises(ValueError, match="no ClassLabel"):
        boxes_from_dataset(plain)
    assert boxes_from_dataset(plain, class_names=NAMES).class_names == NAMES
    with pytest.raises(ValueError, match=r"data\[0\], object 0 \(number 1\).*unknown"):
        boxes_from_dataset(plain, class_names=["cat"])


def test_a_data_set_that_load_dataset_knows_is_read_by_its_split(tmp_path, expected):
    as_objects(tmp_path / "images").to_parquet(tmp_path / "hub" / "train.parquet")
    data = load_boxes_from_hub(str(tmp_path / "hub"))
    assert data.pictures["labels"][:] == [labels for _, labels in expected]


def test_bad_boxes_takes_one_of_its_words(tmp_path):
    write_pictures(tmp_path / "images")
    with pytest.raises(ValueError, match="bad_boxes='drop'"):
        load_coco_json(write_coco(tmp_path / "data"), tmp_path / "images", bad_boxes="drop")


def test_pictures_of_equal_names_in_two_yolo_folders_are_told_apart(tmp_path):
    write_yolo(tmp_path / "data")
    shutil.copytree(tmp_path / "data" / "train", tmp_path / "data" / "more")
    (tmp_path / "data" / "data.yaml").write_text("train: [train/images, more/images]\nnames: [cat, red star]\n")
    items = load_yolo(tmp_path / "data" / "data.yaml").pictures["item"][:]
    assert len(set(items)) == 6
