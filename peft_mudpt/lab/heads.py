"""Classifiers that consist of a CLIP, frozen or with an adapter, and of what was learned on its image features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Optional, Union

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import BaseImageProcessor, PreTrainedModel

from ..classifier.classifier import MuDPTClassifierOutput
from ..classifier.prediction import PictureClassifier
from ..towers.registry import family_of


class Head(PictureClassifier):
    """
    A classifier on the normalized image features of a CLIP. If the CLIP has an adapter, both are learned together. The
    classifier can only name the classes that it was trained on. Subclasses define `logits` and, in the module `head`,
    what is learned beside the adapter.

    Args:
        model: the CLIP: a plain one, which is frozen in place, or a `PeftModel` of one.
        class_names: names of the C classes; the position of a name is its label.
        image_processor: needed only to predict from pictures. None: the image processor of the CLIP that the model was
            loaded from.
    """

    words: ClassVar[str]  # what messages call such a classifier
    file: ClassVar[str]  # name of the file that holds the tensors of `head`
    head: torch.nn.Module

    def __init__(
        self,
        model: Union[PreTrainedModel, PeftModel],
        class_names: Sequence[str],
        image_processor: Optional[BaseImageProcessor] = None,
    ):
        super().__init__()
        self.model = model if isinstance(model, PeftModel) else model.requires_grad_(False)
        self.config = model.config
        self.family = family_of(model)
        self.class_names = list(class_names)
        self._image_processor = image_processor

    @abstractmethod
    def logits(self, image_features: torch.Tensor) -> torch.Tensor:
        """Compute the logits (B, C) of B images from their normalized features (B, D)."""

    def forward(
        self,
        pixel_values: Optional[torch.Tensor] = None,
        labels: Optional[torch.Tensor] = None,
        image_features: Optional[torch.Tensor] = None,
    ) -> MuDPTClassifierOutput:
        """Classify images. The arguments, the output and the errors are those of `MuDPTClassifier.forward`."""
        features = self._features_of_either(pixel_values, image_features)  # (B, D)
        logits = self.logits(features)
        loss = None if labels is None else cross_entropy(logits, labels)
        return MuDPTClassifierOutput(loss, logits, features)

    def load_learned(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """
        Load what a run has learned.

        Args:
            tensors: the tensors of `head` by name.

        Raises:
            RuntimeError: if they do not fit the classes or the CLIP.
        """
        self.head.load_state_dict(tensors)
