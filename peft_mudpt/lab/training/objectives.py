"""Training objectives. To add a loss, write a class and add it to `OBJECTIVES`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ..data.loading import images_of
from .anchors import Anchors, image_anchor, logit_anchor, text_anchor
from .frozen_clip import FrozenClip, is_learned


class Objective:
    """
    A loss, and an optional action after each optimizer step. Each run creates one object, which may keep state.

    Attributes:
        needs_frozen_image_features: True if a batch must hold `frozen_image_features` (B, D), the normalized features
            of the pictures from CLIP without its adapter. Batches of augmented pictures never hold them.
    """

    needs_frozen_image_features: bool = False

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


class Cosine(Objective):
    """
    The negative cosine of each picture and its own class, the loss of Fed-DPT (arXiv 2310.03103). It compares a
    picture with no other class.
    """

    def loss(self, classifier: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        output, labels = classifier(**images_of(batch)), batch["labels"]
        features = output.class_features  # (C, D), or (B, C, D)
        own = features[labels] if features.dim() == 2 else features[torch.arange(len(labels)), labels]  # (B, D)
        return -(output.image_features * own).sum(dim=-1).mean()


class Anchored(Objective):
    """
    Another objective, plus the weighted anchors of the outputs that it is computed from.

    Args:
        objective: the other objective.
        anchors: the weights of the anchors.
        frozen_clip: what the anchors refer to.
    """

    def __init__(self, objective: Objective, anchors: Anchors, frozen_clip: FrozenClip):
        self.objective = objective
        self.anchors = anchors
        self.frozen_clip = frozen_clip
        # otherwise the classifier's image features are those of the frozen CLIP
        self.needs_frozen_image_features = anchors.need_images and is_learned(frozen_clip.model, "vision")

    def loss(self, classifier: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        # before the classifier, so that nothing is switched between its forward and its backward pass
        frozen_features = batch.get("frozen_image_features")
        if frozen_features is None and self.needs_frozen_image_features:
            frozen_features = self.frozen_clip.image_features(batch["pixel_values"])
        outputs = []

        def observed(*args, **kwargs):
            outputs.append(classifier(*args, **kwargs))
            return outputs[-1]

        loss = self.objective.loss(observed, batch)
        (output,) = outputs
        weights = self.anchors
        if weights.text_anchor_weight:
            term = text_anchor(output.class_features, self.frozen_clip.text_bank, weights.text_anchor)
            loss = loss + weights.text_anchor_weight * term
        if frozen_features is None:
            frozen_features = output.image_features.detach()
        if weights.image_anchor_weight:
            loss = loss + weights.image_anchor_weight * image_anchor(output.image_features, frozen_features)
        if weights.logit_anchor_weight:
            frozen_logits = self.frozen_clip.logits(frozen_features)
            loss = loss + weights.logit_anchor_weight * logit_anchor(output.logits, frozen_logits)
        return loss

    def after_step(self, classifier: torch.nn.Module, step: int, steps: int) -> None:
        self.objective.after_step(classifier, step, steps)


def check_anchors(anchors: Anchors, model: torch.nn.Module) -> None:
    """
    Check that training changes what the anchors hold.

    Args:
        anchors: the anchors of a run.
        model: the CLIP with the adapter that is trained.

    Raises:
        ValueError: if an anchor would be constant, because training does not change the features that it holds.
    """
    for modality, name in (("text", "text_anchor_weight"), ("vision", "image_anchor_weight")):
        weight = getattr(anchors, name)
        if weight and not is_learned(model, modality):
            raise ValueError(
                f"--{name} {weight:g} has no effect, because training changes nothing in the {modality} tower. Set it "
                "to 0, or choose a method that adapts this tower."
            )


class PerPictureLoss(Objective):
    """The loss of a detector, averaged over the pictures of a batch (see `detection.per_picture_loss`)."""

    def loss(self, classifier: torch.nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        return classifier(**batch).loss


OBJECTIVES: dict[str, type[Objective]] = {
    "cross_entropy": CrossEntropy,
    "cosine": Cosine,
    "per_picture_loss": PerPictureLoss,
}
