"""The detector that a run adapts, its tokenizer and its image processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from ...classifier.loading import ModelSource
from ...detection import FusionDetector
from ...detection.loading import load_detector
from ..backbone import load_processors


@dataclass(frozen=True)
class DetectorBackbone:
    """
    A detector by name, with its tokenizer and its image processor. `load_model` loads the weights.

    Args:
        source: where the detector is loaded from.
        device: device of the models that `load_model` returns.
        tokenizer: tokenizer of the detector.
        image_processor: image processor of the detector.
    """

    source: ModelSource
    device: torch.device
    tokenizer: PreTrainedTokenizerBase
    image_processor: BaseImageProcessor

    @classmethod
    def load(cls, source: ModelSource, device: torch.device) -> DetectorBackbone:
        """
        Load the tokenizer and the image processor of a detector, but not its weights.

        Args:
            source: where the detector is loaded from.
            device: device of the models that `load_model` returns.

        Raises:
            OSError: if the detector is no folder, and cannot be downloaded.
        """
        return cls(source, device, *load_processors(source, "detector"))

    def load_model(self) -> PreTrainedModel:
        """
        Load a new copy of the detector, in float32, ready for PEFT.

        Raises:
            ValueError: if the model is no (MM)GroundingDINO.
        """
        return load_detector(self.source).to(self.device)

    def detector(self, model: torch.nn.Module, class_names: Sequence[str], **options: Any) -> FusionDetector:
        """
        Make a detector of classes, whose loss is the mean over the pictures of a batch.

        Args:
            model: a detector, plain or adapted.
            class_names: names of the classes.
            options: other options of `FusionDetector`.

        Raises:
            ValueError: if the names cannot be a caption.
        """
        return FusionDetector(
            model, class_names, self.tokenizer, self.image_processor, loss_reduction="mean", **options
        )
