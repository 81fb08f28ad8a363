"""Multi-modal prompt tuning for CLIP, native to PEFT. Importing this package registers the method `MUDPT`."""

from ._registration import register
from ._version import __version__
from .classifier import MuDPTClassifier
from .config import PRESETS, MuDPTConfig
from .conversion import convert_checkpoint
from .exporting import export_classifier
from .folding import fold_adapter
from .model import MuDPTModel


__all__ = [
    "PRESETS",
    "MuDPTClassifier",
    "MuDPTConfig",
    "MuDPTModel",
    "__version__",
    "convert_checkpoint",
    "export_classifier",
    "fold_adapter",
]

register()
