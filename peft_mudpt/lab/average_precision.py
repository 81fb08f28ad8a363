"""Average precision of detections, by COCO's own code (pycocotools)."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from ..detection import Detections


if TYPE_CHECKING:
    from datasets import Dataset
    from pycocotools.coco import COCO

LARGEST_AREA = 1e10  # pycocotools' own bound of "all" areas
MOST_DETECTIONS = 100  # per picture, as COCO counts them


@dataclass(frozen=True)
class AveragePrecision:
    """
    Average precision (AP) of detections, each from 0 to 1 (COCO, arXiv 1405.0312).

    Args:
        map: the mean of the AP of all classes, each a mean over the overlaps 0.50, 0.55, ..., 0.95.
        ap50: the mean at the overlap 0.50.
        ap75: the mean at the overlap 0.75.
        per_class: the AP by class name; None for a class without an object to find, which no mean counts.
        precision: by class name the precision at the overlap 0.50 and the recalls 0, 0.01, ..., 1; None as above.
    """

    map: float
    ap50: float
    ap75: float
    per_class: dict[str, Optional[float]]
    precision: dict[str, Optional[list[float]]]


def average_precision(
    pictures: Dataset, detections: Sequence[Optional[Detections]], class_names: Sequence[str]
) -> AveragePrecision:
    """
    Compare detections with the boxes of pictures. Needs the package pycocotools.

    Args:
        pictures: N pictures of `BoxData`. Ignored boxes are neither right nor wrong if they are found.
        detections: what was found in each, such as `detector.predict(..., threshold=0)` returns it: average precision
            needs detections of low scores, too. Of each picture and class the best `MOST_DETECTIONS` count. None, of a
            picture that was skipped, counts as nothing found.
        class_names: names of the C classes, in the order of the labels.

    Returns:
        mAP, AP50, AP75, and AP and precision per class.

    Raises:
        ValueError: if there are not as many detections as pictures, a label is no class, or no box is to be found.
    """
    from pycocotools.cocoeval import COCOeval

    if len(detections) != len(pictures):
        raise ValueError(f"{len(detections)} detections for {len(pictures)} pictures; give one entry for each.")
    labels = [label for own in pictures["labels"][:] for label in own]
    labels += [label for own in detections if own is not None for label in own.labels.tolist()]
    if labels and not 0 <= min(labels) <= max(labels) < len(class_names):
        raise ValueError(f"Labels are from {min(labels)} to {max(labels)}, but there are {len(class_names)} classes.")
    truth = _truth(pictures, len(class_names))
    if all(annotation["iscrowd"] for annotation in truth["annotations"]):
        raise ValueError("The pictures have no box to be found, so that there is no average precision.")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        wanted = _coco(truth)
        evaluation = COCOeval(wanted, _coco({**truth, "annotations": _found(detections)}), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, LARGEST_AREA]], ["all"]
        evaluation.params.maxDets = [MOST_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    # precision at T overlaps, R recalls, C classes, one range of areas and one number of detections; -1: no object
    precision = evaluation.eval["precision"][..., 0, 0]  # (T, R, C)
    per_class = {name: _known(_mean(precision[:, :, label])) for label, name in enumerate(class_names)}
    at_half = {name: precision[0, :, label].tolist() for label, name in enumerate(class_names)}
    curves = {name: None if per_class[name] is None else curve for name, curve in at_half.items()}
    return AveragePrecision(_mean(precision), _mean(precision[0]), _mean(precision[5]), per_class, curves)


def _mean(precision: Any) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else math.nan


def _known(value: float) -> Optional[float]:
    return None if math.isnan(value) else value


def _truth(pictures: Dataset, number_of_classes: int) -> dict[str, list[dict[str, Any]]]:
    annotations = []
    for i, example in enumerate(pictures.select_columns(["boxes", "labels", "ignored"])):
        for box, label, ignored in zip(example["boxes"], example["labels"], example["ignored"]):
            annotations.append(_annotation(len(annotations) + 1, i, box, label, iscrowd=int(ignored)))
    return {
        "images": [{"id": i} for i in range(len(pictures))],
        "categories": [{"id": label} for label in range(number_of_classes)],
        "annotations": annotations,
    }


def _found(detections: Sequence[Optional[Detections]]) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for i, own in enumerate(detections):
        if own is None:
            continue
        for box, label, score in zip(own.boxes.tolist(), own.labels.tolist(), own.scores.tolist()):
            annotations.append(_annotation(len(annotations) + 1, i, box, label, iscrowd=0, score=score))
    return annotations


def _annotation(number: int, picture: int, box: Sequence[float], label: int, **more: Any) -> dict[str, Any]:
    left, top, right, bottom = box
    size = [right - left, bottom - top]
    area = size[0] * size[1]
    return {"id": number, "image_id": picture, "category_id": label, "bbox": [left, top, *size], "area": area, **more}


def _coco(content: dict[str, Any]) -> COCO:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco
