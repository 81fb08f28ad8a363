"""The linear probe, a baseline that the lab compares with prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional, Union

import torch
from peft import PeftModel
from transformers import BaseImageProcessor, PreTrainedModel

from .heads import Head


class LinearProbe(Head):
    """
    One linear layer on the normalized image features (CLIP, arXiv 2103.00020, section 3.2).

    Its outputs are turned into logits like the cosines of the CLIP. A probe whose weights are the normalized text
    features of the classes therefore begins with the logits of zero-shot CLIP (arXiv 2312.12730, section 3).

    Args:
        model, class_names, image_processor: see `Head`.
        start: weights (C, D) to begin with; None: zeros. The biases begin at zero.
    """

    words = "a linear probe"
    file = "linear_probe.safetensors"
    head: torch.nn.Linear

    def __init__(
        self,
        model: Union[PreTrainedModel, PeftModel],
        class_names: Sequence[str],
        image_processor: Optional[BaseImageProcessor] = None,
        start: Optional[torch.Tensor] = None,
    ):
        super().__init__(model, class_names, image_processor)
        self.head = torch.nn.Linear(self.family.feature_size(model.config), len(self.class_names))
        torch.nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.copy_(torch.zeros_like(self.head.weight) if start is None else start)

    def logits(self, image_features: torch.Tensor) -> torch.Tensor:
        return self.family.logits(self.model, self.head(image_features))

    def linear_head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights (C, D) and biases (C,) of the layer, multiplied by the logit scale."""
        scale = self.family.logit_scale(self.model)
        return scale * self.head.weight, scale * self.head.bias
