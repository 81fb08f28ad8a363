"""The plan of a run that adapts a detector: how it is trained, tested and saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import torch
from peft import PeftModel

from ...detection import Detections, FusionDetector
from ...detection.loading import load_detector
from ..backbone import EMBEDDED
from ..data.boxes.few_shot_boxes import pictures_by_class
from ..data.boxes.loading import TrainingBoxes
from ..data.loading import PIXEL_VALUES, picture
from ..plan import Plan, picture_lines
from ..protocols import Task
from ..report.boxes import example_sheet
from ..run_folder import EXAMPLES
from ..saving import check_it_reloads, reload, save_adapter, save_files
from ..storage import write_bytes
from ..training.boxes import train_detector
from ..training.checkpoints import Checkpoints
from ..training.loop import Progress
from .evaluation import MEASURES, evaluate_detector


if TYPE_CHECKING:
    from datasets import Dataset

SHOWN = 6  # number of test pictures that are drawn with the boxes found in them


@dataclass(frozen=True)
class DetectionPlan(Plan):
    """
    A run that was checked and can be executed once (see `Plan`).

    Args:
        detector: the detector of the learner, which is trained.
        before: what the plain detector finds in `example_pictures`.
    """

    detector: FusionDetector
    before: Sequence[Optional[Detections]]

    def summary(self, metrics: dict[str, Any]) -> dict[str, Optional[float]]:
        (measured,) = metrics.values()
        return {measure: measured[measure] for measure in MEASURES}

    def lines(self) -> dict[str, str]:
        task = self.task
        boxes = sum(map(len, task.train["boxes"][:]))
        return {
            "detector": self.experiment.model_name_or_path,
            "method": self.method.name,
            "trainable parameters": f"{self.trainable_parameters:,}",
            "classes": str(len(task.class_names)),
            "training pictures": f"{len(task.train):,} with {boxes:,} boxes",
            **picture_lines(self.selection, self.experiment.protocol),
        }

    def notes(self) -> list[str]:
        notes = []
        origin = self.data.origin
        if self.experiment.model_name_or_path == EMBEDDED and (origin.train_dir or origin.dataset_name):
            notes.append(
                "the embedded detector knows drawn shapes only: for photographs, name another one "
                "(--model_name_or_path IDEA-Research/grounding-dino-tiny)"
            )
        return [*notes, *self.selection.drawn.remarks]

    def train(self, checkpoints: Optional[Checkpoints]) -> Progress:
        assert self.recipe is not None, "methods of detection that learn have optimizer steps"
        return train_detector(self.accelerator, self.detector, self.task.train, self.recipe, checkpoints)

    def evaluate(self) -> dict[str, Any]:
        batch_size = self.experiment.training.per_device_eval_batch_size
        return evaluate_detector(self.accelerator, self.detector, self.task, batch_size)

    def described(self) -> dict[str, Any]:
        return {"training_pictures": pictures_by_class(self.task.train, self.task.class_names)}

    def save(self, folder: Path) -> int:
        model, size = self.learner.model, 0
        if self.method.is_trained:
            size = save_files(folder, partial(save_adapter if isinstance(model, PeftModel) else _save_whole, model))
        self._save_examples(folder)
        return size

    def _save_examples(self, folder: Path) -> None:
        pictures = example_pictures(self.task)
        after = detect_examples(self.detector, pictures)
        sheet = example_sheet(pictures, self.task.class_names, {"before": self.before, "after": after})
        write_bytes(folder / EXAMPLES, sheet)

    def check_it_reloads(self, folder: Path) -> None:
        model, backbone = self.learner.model, self.backbone
        if isinstance(model, PeftModel):
            reloaded: torch.nn.Module = reload(model, backbone.load_model(), folder)
        else:
            reloaded = load_detector(type(backbone.source)(str(folder))).to(backbone.device)
        sample = TrainingBoxes(self.task.train, 1, 0, backbone.image_processor)[0]
        pixel_values = sample[PIXEL_VALUES][None].to(backbone.device)  # (1, 3, H, W)

        def logits_of(model: torch.nn.Module) -> torch.Tensor:
            return backbone.detector(model, self.task.class_names)(pixel_values).logits

        check_it_reloads(model, reloaded, folder, logits_of)


def example_pictures(task: Task) -> Dataset:
    """
    Choose the test pictures that are drawn with the boxes found in them.

    Args:
        task: the task that holds the test pictures.

    Returns:
        The first `SHOWN` pictures with boxes.
    """
    (test,) = task.tests.values()
    shown = [i for i, boxes in enumerate(test.pictures["boxes"][:]) if boxes]
    return test.pictures.select(shown[:SHOWN])


def detect_examples(detector: FusionDetector, pictures: Dataset) -> list[Optional[Detections]]:
    """
    Find the objects of some pictures, for a drawing.

    Args:
        detector: the detector.
        pictures: pictures of `BoxData`.

    Returns:
        What is found in each picture.
    """
    return detector.predict(map(picture, pictures))


def _save_whole(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
