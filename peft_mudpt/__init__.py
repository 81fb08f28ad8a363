"""Multi-modal prompt tuning for CLIP, native to PEFT. Importing this package registers the method `MUDPT`."""

from ._registration import register
from .classifier import MuDPTClassifier
from .config import PRESETS, MuDPTConfig
from .conversion import convert_checkpoint
from .exporting import export_classifier
from .folding import fold_adapter
from .model import MuDPTModel


__version__ = "0.1.0"
__all__ = [
    "PRESETS",
    "MuDPTClassifier",
    "MuDPTConfig",
    "MuDPTModel",
    "convert_checkpoint",
    "export_classifier",
    "fold_adapter",
]

register()
