"""Three pictures with boxes, written in every format: with two objects, with none, and stored lying on its side."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


NAMES = ["cat", "red star"]
# width, height (upright) and boxes (left, top, right, bottom, name) by the stem of the file
PICTURES = {
    "a": (40, 30, [(4, 3, 20, 15, "red star"), (10, 6, 40, 30, "cat")]),
    "b": (20, 20, []),
    "c": (30, 50, [(3, 5, 15, 50, "cat")]),
}
LYING = "c"


def write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for stem, (width, height, _) in PICTURES.items():
        pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image, options = Image.fromarray(pixels), {}
        if stem == LYING:
            exif = Image.Exif()
            exif[274] = 6  # to be shown turned
            image, options = image.transpose(Image.Transpose.ROTATE_90), {"exif": exif}
        image.save(folder / f"{stem}.jpg", **options)


def write_coco(root: Path, change=lambda content: None, pictures=PICTURES) -> Path:
    """Ids and their order in the file differ from the order of the pictures and the categories."""
    write_pictures(root / "images")
    ids = {"a": 7, "b": 8, "c": 90}
    annotations = [
        dict(
            id=10 * ids[stem] + i,
            image_id=ids[stem],
            category_id={"cat": 3, "red star": 20}[name],
            bbox=[left, top, right - left, bottom - top],
            iscrowd=int(stem == "c"),
        )
        for stem, (_, _, boxes) in pictures.items()
        for i, (left, top, right, bottom, name) in enumerate(boxes)
    ]
    content = {
        "images": [
            dict(id=ids[stem], file_name=f"{stem}.jpg", width=width, height=height)
            for stem, (width, height, _) in reversed(pictures.items())
        ],
        "categories": [dict(id=20, name="red star"), dict(id=3, name="cat")],
        "annotations": annotations[::-1] if len(annotations) == 1 else annotations,
    }
    change(content)
    path = root / "instances.json"
    path.write_text(json.dumps(content))
    return path


def write_voc(root: Path, pictures=PICTURES) -> Path:
    write_pictures(root / "JPEGImages")
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("c\na\n")
    for stem, (width, height, boxes) in pictures.items():
        objects = "".join(
            f"<object><name>{name}</name><difficult>{int(stem == 'c')}</difficult><bndbox><xmin>{left}</xmin>"
            f"<ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for left, top, right, bottom, name in boxes
        )
        (root / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><filename>old_{stem}.jpg</filename><size><width>{width}</width><height>{height}</height>"
            f"</size>{objects}</annotation>"
        )
    return root


def write_yolo(root: Path, pictures=PICTURES, yaml=None) -> Path:
    write_pictures(root / "train" / "images")
    (root / "train" / "labels").mkdir()
    for stem, (width, height, boxes) in pictures.items():
        lines = [
            f"{NAMES.index(name) if name in NAMES else name} {(left + right) / 2 / width:.6f} "
            f"{(top + bottom) / 2 / height:.6f} {(right - left) / width:.6f} {(bottom - top) / height:.6f}\n"
            for left, top, right, bottom, name in boxes
        ]
        if lines:
            (root / "train" / "labels" / f"{stem}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(yaml or "train: ../train/images\nnc: 2\nnames: [cat, red star]\n")
    return root / "data.yaml"


def as_objects(folder: Path, box_format="coco", pictures=PICTURES, as_rows=False):
    """A data set with a column of objects, as those of the Hub have it."""
    from datasets import ClassLabel, Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    write_pictures(folder)
    rows = []
    for stem, (width, height, boxes) in pictures.items():
        own = []
        for left, top, right, bottom, name in boxes:
            box = {
                "coco": [left, top, right - left, bottom - top],
                "pascal_voc": [left, top, right, bottom],
                "yolo": [
                    (left + right) / 2 / width,
                    (top + bottom) / 2 / height,
                    (right - left) / width,
                    (bottom - top) / height,
                ],
            }[box_format]
            own.append({"bbox": box, "category": NAMES.index(name)})
        by_field = {key: [entry[key] for entry in own] for key in ("bbox", "category")}
        rows.append({"image": str(folder / f"{stem}.jpg"), "objects": own if as_rows else by_field})
    fields = {"bbox": List(Value("float64"), length=4), "category": ClassLabel(names=NAMES)}
    objects = List(fields) if as_rows else {key: List(own) for key, own in fields.items()}
    return Dataset.from_list(rows, features=Features({"image": ImageFeature(), "objects": objects}))


@pytest.fixture
def expected():
    """Boxes and labels of each picture, in the order of the stems."""
    return [
        ([list(map(float, box[:4])) for box in boxes], [NAMES.index(box[4]) for box in boxes])
        for _, _, boxes in PICTURES.values()
    ]
