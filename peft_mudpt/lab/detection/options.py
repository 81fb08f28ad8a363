"""The options of a run that adapts a detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ... import demo
from ..backbone import EMBEDDED, BackboneOptions
from ..data.boxes.options import BoxDataOptions
from ..flags import Count, flag
from ..method import DETECTION
from ..methods import BaseMethodOptions, all_methods
from ..training_options import LoopOptions


FOR_PHOTOGRAPHS = "IDEA-Research/grounding-dino-tiny"


@dataclass(frozen=True)
class DetectorOptions(BackboneOptions):
    """The options that name the detector to adapt."""

    embedded: ClassVar[str] = demo.DETECTOR_PATH
    for_photographs: ClassVar[str] = FOR_PHOTOGRAPHS

    model_name_or_path: str = flag(
        EMBEDDED,
        "The detector, a GroundingDINO or MM-GroundingDINO: a Hub id, a folder, or "
        f"'{EMBEDDED}' for the tiny detector of drawn shapes. If another flag names pictures, such as a folder, the "
        f"default is {FOR_PHOTOGRAPHS}.",
    )


@dataclass(frozen=True)
class DetectionMethodOptions(BaseMethodOptions):
    """Options that name a method of detection and change its config. `--help` describes each."""

    task: ClassVar[str] = DETECTION

    method: str = flag("sdpt", f"One of {', '.join(all_methods(DETECTION))}.")


@dataclass(frozen=True)
class DetectionTrainingOptions(LoopOptions):
    """Options of training and testing a detector. `--help` describes each."""

    per_device_train_batch_size: Count = flag(4, "Pictures per device and forward pass in training.")
    num_train_epochs: Count = flag(5, "Least number of times that each training picture is seen.")
    min_train_steps: Count = flag(
        200, "Least number of optimizer steps; if the pictures are few, they are seen more often."
    )
    per_device_eval_batch_size: Count = flag(8, "Pictures per device and forward pass in testing.")
    augmentation: str = flag(
        "auto",
        "flip: flip pictures from left to right, and make them smaller, at random. auto: flip, except in the embedded "
        "world, where pictures are small.",
        choices=("auto", "flip", "none"),
    )

    def augments(self, data: BoxDataOptions) -> bool:
        """True if the training pictures of a data set are augmented."""
        of_embedded_world = data.train_dir is None and data.dataset_name is None and data.dataset in demo.SCENE_STYLES
        return self.augmentation == "flip" or (self.augmentation == "auto" and not of_embedded_world)
