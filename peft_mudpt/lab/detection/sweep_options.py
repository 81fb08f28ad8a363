"""The flags of examples/sweep_detection.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..arguments import RunArguments
from ..flags import flag
from ..sweep_options import SweepOptions
from .arguments import DetectionArguments


@dataclass(frozen=True)
class DetectionSweepOptions(SweepOptions):
    """What a sweep compares, and how. `--help` describes each."""

    kind: ClassVar[type[RunArguments]] = DetectionArguments

    protocol: str = flag("few-shot", "few-shot.")
    datasets: str = flag("", "Comma-separated styles of the embedded world. Empty: the default, or --train_dir.")
    methods: str = flag(
        "zero_shot,lora,full,dual_prompts,sdpt_released,sdpt",
        "Comma-separated names as for --method of a single run.",
    )
    shots: str = flag("1,5,10", "Comma-separated numbers of pictures for each class.")
    learning_rate_factors: str = flag(
        "0.1,0.3,1,3",
        "Comma-separated factors of each method's default learning rate. Each is tried with the first seed and the "
        "most shots. The rate with the best mAP on validation pictures is used for the whole data set. One factor: no "
        "search.",
    )
    output_dir: str = flag("outputs/lab_detection", "Folder for the runs; each has a subfolder.", metavar="FOLDER")
