"""The linear probe: one layer on the image features of a CLIP, which may have an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional, Union

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import BaseImageProcessor, PreTrainedModel

from ..classifier.classifier import MuDPTClassifierOutput
from ..classifier.prediction import PictureClassifier
from ..towers.registry import family_of


class LinearProbe(PictureClassifier):
    """
    One linear layer on the normalized image features of a CLIP, frozen (CLIP, arXiv 2103.00020, section 3.2) or with
    an adapter that is trained together with the layer.

    The probe can only name the classes it was trained on. Its logits are multiplied by the logit scale of the CLIP,
    so that their range is similar to that of the CLIP's logits.

    Args:
        model: the CLIP: a plain one, which is frozen in place, or a `PeftModel` of one.
        class_names: names of the C classes; the position of a name is its label.
        image_processor: needed only to predict from pictures. None: the image processor of the CLIP that the model was
            loaded from.
    """

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
        self.head = torch.nn.Linear(self.family.feature_size(model.config), len(self.class_names))
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(
        self,
        pixel_values: Optional[torch.Tensor] = None,
        labels: Optional[torch.Tensor] = None,
        image_features: Optional[torch.Tensor] = None,
    ) -> MuDPTClassifierOutput:
        """Classify images. The arguments, the output and the errors are those of `MuDPTClassifier.forward`."""
        features = self._features_of_either(pixel_values, image_features)  # (B, D)
        logits = self.family.logit_scale(self.model) * self.head(features)  # (B, C)
        loss = None if labels is None else cross_entropy(logits, labels)
        return MuDPTClassifierOutput(loss, logits, features)

    def linear_head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights (C, D) and biases (C,) of the layer, multiplied by the logit scale."""
        scale = self.family.logit_scale(self.model)
        return scale * self.head.weight, scale * self.head.bias
