"""Prompt tuning for CLIP and for detectors, native to PEFT. Importing it registers the methods `MUDPT` and `SDPT`."""

from ._registration import register
from ._version import __version__
from .calibration.calibration import Calibration
from .classifier.classifier import MuDPTClassifier
from .classifier.pictures import open_picture
from .classifier.templates import TEMPLATES
from .config import PRESETS, MuDPTConfig
from .conversion import convert_checkpoint
from .image_size import set_image_size
from .model import MuDPTModel
from .prompts_from_data import initialize_prompts
from .sdpt.config import SDPTConfig
from .sdpt.model import SDPTModel
from .serving.encoders import export_encoders
from .serving.exporting import export_classifier
from .serving.folding import fold_adapter


__all__ = [
    "PRESETS",
    "TEMPLATES",
    "Calibration",
    "MuDPTClassifier",
    "MuDPTConfig",
    "MuDPTModel",
    "SDPTConfig",
    "SDPTModel",
    "__version__",
    "convert_checkpoint",
    "export_classifier",
    "export_encoders",
    "fold_adapter",
    "initialize_prompts",
    "open_picture",
    "set_image_size",
]

register()
