"""Training objectives. To add a loss, write a class and add it to `OBJECTIVES`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import cross_entropy


class Objective:
    """A loss, and an optional action after each optimizer step. Each run creates one object, which may keep state."""

    def loss(self, classifier: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """
        Compute the loss of a batch.

        Args:
            classifier: when called with `pixel_values`, it returns `logits` (B, C), normalized `image_features` (B, D)
                and, if it uses texts, normalized `class_features` (C, D). Call it exactly once, and call none of its
                methods, because with several processes a wrapper averages the gradients of this call.
            batch: `pixel_values` (B, 3, H, W) and `labels` (B,).

        Returns:
            The loss, a scalar tensor with a gradient.
        """
        raise NotImplementedError

    def after_step(self, classifier: torch.nn.Module, step: int, steps: int) -> None:
        """
        Called after each optimizer step, for example to average parameters. By default it does nothing.

        Args:
            classifier: the classifier whose parameters were updated.
            step: number of optimizer steps done, at least 1.
            steps: number of optimizer steps of the whole run.
        """


class CrossEntropy(Objective):
    """Cross-entropy of each picture against all classes (CoOp, arXiv 2109.01134, equation 3)."""

    def loss(self, classifier: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return cross_entropy(classifier(pixel_values=batch["pixel_values"]).logits, batch["labels"])


OBJECTIVES: dict[str, type[Objective]] = {"cross_entropy": CrossEntropy}
