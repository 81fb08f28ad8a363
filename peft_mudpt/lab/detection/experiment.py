"""The description of a run that adapts a detector."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Optional, Union

from accelerate import Accelerator

from ...optional import require
from ..data.boxes import BoxDataOptions, FewShotBoxes, draw_boxes, load_box_data
from ..environment import random_state
from ..identity import what_was_asked
from ..method import DETECTION
from ..plan import BaseExperiment, Selection
from ..protocols import FewShotOptions, Task, TestSet
from ..recipe import recipe_of_loop
from .backbone import DetectorBackbone
from .evaluation import MEASURES, evaluate_detector
from .learner import DetectorGround
from .options import DetectionMethodOptions, DetectionTrainingOptions, DetectorOptions
from .plan import DetectionPlan, detect_examples, example_pictures


if TYPE_CHECKING:
    from .arguments import DetectionArguments

NEEDED = ("scipy", "pycocotools")  # for the loss, and for average precision
FOR_AUGMENTATION = "monai"


@dataclass(frozen=True)
class DetectionExperiment(BaseExperiment):
    """
    The description of a run that adapts a detector.

    Args:
        data: a data set, or the options that name one.
        method: name of a record of `detection.methods.METHODS`.
        model_name_or_path: the detector: a Hub id, a folder, or "embedded".
        method_kwargs: fields of the method's config that replace its defaults.
        protocol: the number of pictures for each class, the seed, and the pictures for testing.
        training: options of training and testing; by default those of the method.
        model_revision: branch, tag or commit of the detector's repository on the Hub; None: the main branch.
    """

    data: Union[FewShotBoxes, BoxDataOptions]
    method: str = "sdpt"
    protocol: FewShotOptions = FewShotOptions()
    training: DetectionTrainingOptions = DetectionTrainingOptions()

    task: ClassVar[str] = DETECTION

    @classmethod
    def of(cls, arguments: DetectionArguments) -> DetectionExperiment:
        """
        Describe the run that the flags ask for.

        Args:
            arguments: the flags.
        """
        return cls(
            arguments.part(BoxDataOptions),
            arguments.method,
            arguments.model_name_or_path,
            arguments.config_fields(),
            arguments.part(FewShotOptions),
            arguments.part(DetectionTrainingOptions),
            arguments.model_revision,
        )

    @property
    def backbone(self) -> DetectorOptions:
        return DetectorOptions(self.model_name_or_path, self.model_revision)

    @property
    def asked(self) -> dict[str, Any]:
        method_kwargs = json.dumps(dict(self.method_kwargs), ensure_ascii=False) if self.method_kwargs else None
        return what_was_asked(
            self.backbone,
            DetectionMethodOptions(self.method, method_kwargs),
            self.data if isinstance(self.data, BoxDataOptions) else self.data.origin,
            self.protocol,
            self.training,
        )

    def check(self) -> None:
        super().check()
        origin = self.data if isinstance(self.data, BoxDataOptions) else self.data.origin
        augments = self.found_method.has_steps and self.training.augments(origin)
        require("This run", "detection", *NEEDED)
        if augments:
            require("The augmentation of pictures (--augmentation none goes without)", "detection", FOR_AUGMENTATION)

    def loaded(self) -> FewShotBoxes:
        return load_box_data(self.data) if isinstance(self.data, BoxDataOptions) else self.data

    def select(self) -> Selection:
        data, protocol = self.loaded(), self.protocol
        drawn = draw_boxes(data, protocol.shots, protocol.seed, protocol.evaluate_on)
        name = protocol.evaluate_on
        test = TestSet(drawn.validation if name == "validation" else drawn.test, data.class_names)
        return Selection(data, drawn, Task(drawn.train, drawn.validation, data.class_names, {name: test}))

    def plan(self, selection: Selection, accelerator: Accelerator, started: float) -> DetectionPlan:
        task, training, method = selection.task, self.training, self.found_method
        backbone = DetectorBackbone.load(self.backbone.source(), accelerator.device)
        plain = backbone.detector(backbone.load_model(), task.class_names)
        detector = backbone.detector(backbone.load_model(), task.class_names)
        learner = method.apply(DetectorGround(detector, self.method_kwargs, self.model_revision))
        recipe = None
        if method.has_steps:
            recipe = recipe_of_loop(
                training,
                method,
                pictures=len(task.train),
                processes=accelerator.num_processes,
                augment=training.augments(selection.data.origin),
                seed=self.protocol.seed,
            )
        zero_shot = evaluate_detector(accelerator, plain, task, training.per_device_eval_batch_size)
        return DetectionPlan(
            self.launched(accelerator.mixed_precision),
            selection,
            method,
            backbone,
            learner,
            recipe,
            zero_shot,
            accelerator,
            random_state(),
            started,
            backbone.detector(learner.model, task.class_names),
            detect_examples(plain, example_pictures(task)),
        )

    def summary_lines(
        self, summary: Mapping[str, Optional[float]], metrics: Mapping[str, Optional[Mapping[str, Any]]]
    ) -> dict[str, str]:
        pictures = " and ".join(f"{own['pictures']:,}" for own in metrics.values() if own is not None)
        lines = {MEASURES[name]: "n/a" if value is None else f"{value:.1f} %" for name, value in summary.items()}
        return {name: f"{words} of {pictures} pictures" if name == "mAP" else words for name, words in lines.items()}
