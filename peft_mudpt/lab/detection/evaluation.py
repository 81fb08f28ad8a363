"""Measures the average precision of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from ...detection import Detections, FusionDetector
from ..average_precision import average_precision
from ..data.memory import MEMORY, picture
from ..protocols import Task, TestSet


MEASURES = {"map": "mAP", "ap50": "AP50", "ap75": "AP75"}  # the numbers of a summary, and their names in words


def evaluate_detector(
    accelerator: Accelerator, detector: FusionDetector, task: Task, batch_size: int
) -> dict[str, dict[str, Any]]:
    """
    Test a detector on every test set of a task.

    Args:
        accelerator: the accelerator of the run; each process tests a part of the pictures.
        detector: the detector, of the classes of the task.
        task: the task that holds the test sets.
        batch_size: pictures per device and forward pass.

    Returns:
        For each test set `map`, `ap50` and `ap75` in percent; `pictures`, their number; `classes`, the average
        precision by class in percent, None for a class without objects; and `precision`, by class the percent at the
        overlap 0.5 and the recalls 0, 0.01, ..., 1.

    Raises:
        ValueError: if no picture of a test set has a box.
    """
    metrics = {}
    for name, test in task.tests.items():
        found = _detect(accelerator, detector, test, batch_size)
        measured = average_precision(test.pictures, found, test.class_names)
        metrics[name] = {
            **{measure: 100 * getattr(measured, measure) for measure in MEASURES},
            "pictures": len(test.pictures),
            "classes": {name: _percent(value) for name, value in measured.per_class.items()},
            "precision": {
                name: curve and [round(100 * value, 2) for value in curve]
                for name, curve in measured.precision.items()
            },
        }
    return metrics


def _percent(value: Optional[float]) -> Optional[float]:
    return None if value is None else 100 * value


def _detect(
    accelerator: Accelerator, detector: FusionDetector, test: TestSet, batch_size: int
) -> Sequence[Optional[Detections]]:
    """What is found in each picture, on every process."""
    quiet = not accelerator.is_local_main_process
    with accelerator.split_between_processes(list(range(len(test.pictures)))) as own:
        opened = MEMORY.opened(test.pictures.select(own))
        bar = tqdm(zip(own, opened), total=len(own), desc="testing", leave=False, disable=quiet)
        pictures = (picture(test.pictures[i]) if kept is None else kept for i, kept in bar)
        found = [_on_cpu(one) for one in detector.predict(pictures, threshold=0, batch_size=batch_size)]
    # in the order of the processes, and so in that of the pictures; accelerate 1.3 repeats the last one if there are
    # fewer pictures than processes
    return gather_object(found)[: len(test.pictures)]


def _on_cpu(found: Optional[Detections]) -> Optional[Detections]:
    if found is None:
        return None
    return Detections(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu(), found.names)
