"""What training minimizes. A new loss is a class and an entry of the table."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import cross_entropy


class Objective:
    """What a step minimizes, and what happens after it. One object serves one run, and may keep state of its own."""

    def loss(self, classifier: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """
        The loss of a batch, a number with a gradient.

        Args:
            classifier: called with `pixel_values` it returns `logits` (B, C), normalized `image_features` (B, D) and,
                if it has texts, normalized `class_features` (C, D). Call it once, and call nothing within it: with
                several processes it is wrapped to average gradients.
            batch: `pixel_values` (B, 3, H, W) and `labels` (B,).
        """
        raise NotImplementedError

    def after_step(self, classifier: torch.nn.Module, step: int, steps: int) -> None:
        """
        What is to be done after an optimizer step, such as averaging parameters.

        Args:
            classifier: whose parameters were just updated.
            step: steps done, from 1.
            steps: of the whole run.
        """


class CrossEntropy(Objective):
    """Cross-entropy of each picture against all classes (CoOp, arXiv 2109.01134, equation 3)."""

    def loss(self, classifier: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return cross_entropy(classifier(pixel_values=batch["pixel_values"]).logits, batch["labels"])


OBJECTIVES: dict[str, type[Objective]] = {"cross_entropy": CrossEntropy}
