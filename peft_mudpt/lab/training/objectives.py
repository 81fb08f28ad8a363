"""Training objectives. To add a loss, write a class and add it to `OBJECTIVES`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import cross_entropy

from ..data.loading import images_of


class Objective:
    """
    A loss, and an optional action after each optimizer step. Each run creates one object, which may keep state.

    Attributes:
        needs_frozen_image_features: True if a batch must hold `frozen_image_features` (B, D), the normalized features
            of the pictures from CLIP without its adapter. Batches of augmented pictures never hold them.
    """

    needs_frozen_image_features = False

    def loss(self, classifier: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """
        Compute the loss of a batch.

        Args:
            classifier: when called with the images of the batch, `classifier(**images_of(batch))`, it returns `logits`
                (B, C), normalized `image_features` (B, D) and, if it uses texts, normalized `class_features` (C, D).
                Call it exactly once, and call none of its methods, because with several processes a wrapper averages
                the gradients of this call.
            batch: `labels` (B,) and `pixel_values` (B, 3, H, W); in place of pixels, normalized `image_features`
                (B, D) if training does not change them; and what `needs_frozen_image_features` asks for.

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
        return cross_entropy(classifier(**images_of(batch)).logits, batch["labels"])


OBJECTIVES: dict[str, type[Objective]] = {"cross_entropy": CrossEntropy}
