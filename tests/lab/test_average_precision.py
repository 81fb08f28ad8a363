"""Average precision of detections against COCO's own code and against hand-made cases."""

import contextlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from peft_mudpt.detection import Detections
from peft_mudpt.lab.average_precision import average_precision
from peft_mudpt.lab.data.boxes.records import Box, Record, box_data


pytest.importorskip("pycocotools")
NAMES = ["cat", "dog", "bird"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "white.png"
    Image.new("RGB", (100, 100), "white").save(path)
    return str(path)


def truth(file, *pictures):
    """Pictures of 100 x 100 pixels with boxes (corners, name, ignored)."""
    records = [
        Record(
            file,
            f"picture {i}",
            [Box(f"object {j}", *own, ignored=ignored) for j, (*own, ignored) in enumerate(boxes)],
        )
        for i, boxes in enumerate(pictures)
    ]
    return box_data("made", NAMES, records, "raise").pictures


def found(*objects):
    boxes, scores, labels = zip(*objects) if objects else ([], [], [])
    return Detections(
        torch.tensor(boxes, dtype=torch.float).reshape(-1, 4),
        torch.tensor(scores),
        torch.tensor(labels),
        [NAMES[i] for i in labels],
    )


def test_it_equals_pycocotools_on_random_boxes(file):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    random = np.random.default_rng(0)

    def corners(shift=0.0):
        start, size = random.uniform(5, 50, 2), random.uniform(10, 40, 2)
        return [*start, *(start + size)]

    pictures, detections, annotations, results = [], [], [], []
    for i in range(12):
        boxes = [
            (corners(), NAMES[random.integers(2)], bool(random.random() < 0.1)) for _ in range(random.integers(4))
        ]
        pictures.append(boxes)
        own = []
        for box, name, ignored in boxes:
            label = NAMES.index(name)
            left, top, right, bottom = box
            size = [right - left, bottom - top]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=i + 1,
                    category_id=label + 1,
                    bbox=[left, top, *size],
                    area=size[0] * size[1],
                    iscrowd=int(ignored),
                )
            )
            own.append(([v + random.normal() * 2 for v in box], random.random(), label))
        own.append((corners(), random.random(), 1))
        detections.append(found(*own))
        for box, score, label in zip(
            *(getattr(detections[-1], key).tolist() for key in ("boxes", "scores", "labels"))
        ):
            results.append(
                dict(
                    image_id=i + 1,
                    category_id=label + 1,
                    bbox=[*box[:2], box[2] - box[0], box[3] - box[1]],
                    score=score,
                )
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dict(
            images=[dict(id=i + 1) for i in range(12)],
            categories=[dict(id=i + 1, name=name) for i, name in enumerate(NAMES)],
            annotations=annotations,
        )
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    measured = average_precision(truth(file, *pictures), detections, NAMES)
    assert 0.1 < measured.map < 0.9
    assert [measured.map, measured.ap50, measured.ap75] == pytest.approx(list(evaluation.stats[:3]), abs=1e-12)
    assert measured.per_class["bird"] is None
    assert np.mean([measured.per_class[name] for name in NAMES[:2]]) == pytest.approx(measured.map)


def test_all_right_is_one_and_all_wrong_is_zero(file):
    pictures = truth(file, [([10, 10, 40, 40], "cat", False)], [], [([50, 50, 90, 90], "dog", False)])
    right = [found(([10, 10, 40, 40], 0.9, 0)), found(), found(([50, 50, 90, 90], 0.2, 1))]
    measured = average_precision(pictures, right, NAMES)
    assert (measured.map, measured.ap50, measured.ap75) == pytest.approx((1, 1, 1))
    assert measured.per_class == {"cat": pytest.approx(1), "dog": pytest.approx(1), "bird": None}
    assert average_precision(pictures, [None, None, None], NAMES).map == 0
    other_class = [found(([10, 10, 40, 40], 0.9, 1)), found(), found(([50, 50, 90, 90], 0.2, 0))]
    assert average_precision(pictures, other_class, NAMES).map == 0


def test_a_find_in_a_picture_without_objects_counts_as_wrong(file):
    pictures = truth(file, [([10, 10, 40, 40], "cat", False)], [])
    right = found(([10, 10, 40, 40], 0.5, 0))
    wrong = found(([10, 10, 40, 40], 0.9, 0))
    assert average_precision(pictures, [right, wrong], NAMES).map == pytest.approx(0.5)


def test_ignored_boxes_are_neither_right_nor_wrong(file):
    pictures = truth(file, [([10, 10, 40, 40], "cat", False), ([50, 50, 90, 90], "cat", True)])
    both = found(([50, 50, 90, 90], 0.9, 0), ([10, 10, 40, 40], 0.5, 0))
    assert average_precision(pictures, [both], NAMES).map == pytest.approx(1)


def test_a_half_right_box_counts_at_low_overlaps_only(file):
    pictures = truth(file, [([0, 0, 40, 40], "cat", False)])
    measured = average_precision(pictures, [found(([0, 0, 40, 26], 0.9, 0))], NAMES)  # overlap 0.65
    assert (measured.ap50, measured.ap75) == pytest.approx((1, 0))
    assert measured.map == pytest.approx(0.4)  # right at 0.50, 0.55, 0.60 and 0.65


def test_numbers_that_do_not_fit_are_refused(file):
    pictures = truth(file, [([0, 0, 40, 40], "cat", False)])
    with pytest.raises(ValueError, match="0 detections for 1 pictures"):
        average_precision(pictures, [], NAMES)
    with pytest.raises(ValueError, match="2 classes"):
        average_precision(pictures, [found(([0, 0, 40, 40], 0.9, 2))], NAMES[:2])
    with pytest.raises(ValueError, match="no box"):
        average_precision(truth(file, []), [None], NAMES)
