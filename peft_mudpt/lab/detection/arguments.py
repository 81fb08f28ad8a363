"""The flags of examples/fewshot_detection.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ... import demo
from ..arguments import RunArguments
from ..data.boxes.options import BoxDataOptions
from ..flags import flag
from ..method import DETECTION
from ..protocols import FewShotOptions
from .experiment import DetectionExperiment
from .options import DetectionMethodOptions, DetectionTrainingOptions, DetectorOptions


# A dataclass lists the fields of its last base first. In this order, --help lists the detector first.
@dataclass(frozen=True)
class DetectionArguments(
    RunArguments,
    DetectionTrainingOptions,
    FewShotOptions,
    BoxDataOptions,
    DetectionMethodOptions,
    DetectorOptions,
):
    """All flags of examples/fewshot_detection.py (see `RunArguments`)."""

    task: ClassVar[str] = DETECTION

    output_dir: str = flag(
        "outputs/fewshot_detection",
        "Folder for the adapter and result.json. With --train_dir FOLDER it is outputs/FOLDER.",
        metavar="FOLDER",
    )

    def __post_init__(self):
        super().__post_init__()
        named = {"--dataset": self.dataset != demo.SCENE_ADAPTATION_STYLE}
        named |= {"--train_dir": self.train_dir is not None, "--dataset_name": self.dataset_name is not None}
        given = [name for name, is_given in named.items() if is_given]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} name two data sets; give only one.")

    def experiment(self) -> DetectionExperiment:
        return DetectionExperiment.of(self)
