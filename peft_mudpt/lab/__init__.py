"""The few-shot lab runs and compares experiments: data, protocols, methods, training and results.

See docs/reproduce_a_table.md.
"""

from .classification.experiment import Experiment
from .data.boxes.few_shot_boxes import FewShotBoxes
from .data.boxes.options import BoxDataOptions
from .data.few_shot_data import FewShotData
from .data.options import DataOptions
from .data.sampling import base_new_split, sample_few_shot
from .data.sources import load_data, load_folders
from .detection.experiment import DetectionExperiment
from .detection.options import DetectionTrainingOptions
from .evaluation_job import SavedEvaluation, evaluate_saved
from .experiment import execute, prepare
from .plan import Outcome, Plan
from .protocols import FewShotOptions, ProtocolOptions
from .recording import record
from .run_config import config_of_run, write_config
from .saving import save_folded
from .training_options import TrainingOptions


__all__ = [
    "BoxDataOptions",
    "DataOptions",
    "DetectionExperiment",
    "DetectionTrainingOptions",
    "Experiment",
    "FewShotBoxes",
    "FewShotData",
    "FewShotOptions",
    "Outcome",
    "Plan",
    "ProtocolOptions",
    "SavedEvaluation",
    "TrainingOptions",
    "base_new_split",
    "config_of_run",
    "evaluate_saved",
    "execute",
    "load_data",
    "load_folders",
    "prepare",
    "record",
    "sample_few_shot",
    "save_folded",
    "write_config",
]
