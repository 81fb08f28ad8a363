"""An objective on attacked pictures (adversarial training; Madry et al., arXiv 1706.06083)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ...classifier.prediction import PictureClassifier
from ...robust.pixels import Normalization
from ..adversarial import AdversarialTraining
from ..data.loading import CLEAN_IMAGE_FEATURES, EPOCH, IMAGE_FEATURES, INDEX, PICTURE, PIXEL_VALUES
from .objectives import Objective


class Adversarial(Objective):
    """
    Another objective, computed from attacked pictures and, if they have a weight, from clean ones.

    A batch of `image_features` holds those of attacked pictures already. Pictures in `pixel_values` are attacked here,
    with the classifier as it is at that step.

    Args:
        objective: the other objective.
        training: how the run learns from attacked pictures.
        classifier: the classifier in training, not wrapped for several processes.
        normalization: that of the image processor.
    """

    def __init__(
        self,
        objective: Objective,
        training: AdversarialTraining,
        classifier: PictureClassifier,
        normalization: Normalization,
    ):
        self.objective = objective
        self.training = training
        self.classifier = classifier
        self.normalization = normalization
        self.needs_frozen_image_features = objective.needs_frozen_image_features
        self.attacked: dict[int, tuple[int, torch.Tensor]] = {}  # by picture: the epoch, and its change of the pixels

    def loss(self, classifier: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if IMAGE_FEATURES in batch:
            name, attacked, clean = IMAGE_FEATURES, batch[IMAGE_FEATURES], batch.get(CLEAN_IMAGE_FEATURES)
        else:
            name, attacked, clean = PIXEL_VALUES, self._attack(batch), batch[PIXEL_VALUES]
        if not (weight := self.training.clean_weight):
            return self.objective.loss(lambda **_: classifier(**{name: attacked}), batch)
        output = classifier(**{name: torch.cat([attacked, clean])})  # once, as `Objective.loss` asks
        of_attacked, of_clean = (_rows(output, rows) for rows in (slice(len(attacked)), slice(len(attacked), None)))
        return (1 - weight) * self.objective.loss(lambda **_: of_attacked, batch) + weight * self.objective.loss(
            lambda **_: of_clean, batch
        )

    def _attack(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The pixel values (B, 3, H, W) of the attacked pictures."""
        pixels = self.normalization.undo(batch[PIXEL_VALUES].float())
        indices, pictures, epochs = (batch[name].tolist() for name in (INDEX, PICTURE, EPOCH))
        changes: list[Any] = [None] * len(pixels)
        for row, (picture, epoch) in enumerate(zip(pictures, epochs)):
            made_in, change = self.attacked.get(picture, (-1, None))
            if change is not None and epoch // self.training.refresh_every == made_in // self.training.refresh_every:
                changes[row] = change.to(pixels.device)
        if stale := [row for row, change in enumerate(changes) if change is None]:
            found = self.training.attack(
                self.classifier,
                self.normalization,
                pixels[stale],
                batch["labels"][stale],
                [indices[row] for row in stale],
            )
            for row, change in zip(stale, found - pixels[stale]):
                changes[row] = change
                if self.training.refresh_every > 1:
                    self.attacked[pictures[row]] = epochs[row], change.cpu()
        return self.normalization(pixels + torch.stack(changes)).to(batch[PIXEL_VALUES].dtype)

    def after_step(self, classifier: torch.nn.Module, step: int, steps: int) -> None:
        self.objective.after_step(classifier, step, steps)

    def state_dict(self) -> dict[str, Any]:
        """What was attacked before; `accelerate` saves it."""
        return {"attacked": self.attacked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set what was attacked before to what `state_dict` returned."""
        self.attacked = state["attacked"]


def _rows(output: Any, rows: slice) -> Any:
    """The part of a classifier's output that belongs to some of the images."""
    of_images = {"logits": output.logits[rows], "image_features": output.image_features[rows]}
    classes = output.class_features
    if classes is not None and classes.dim() == 3:  # (B, C, D): each image has class features of its own
        of_images["class_features"] = classes[rows]
    return replace(output, **of_images)
