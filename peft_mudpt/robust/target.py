"""What all attacks share: the limits of an attack, and its target as a function of pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Optional, Union, cast

import torch

from ..classifier.bank import eval_mode
from ..classifier.prediction import PictureClassifier
from ..rules import AT_LEAST_ONE, SEED, Rule, number, one_of
from ..towers.family import Family
from ..towers.registry import family_of
from .pixels import Normalization, check_pixels


LINF, L2 = "linf", "l2"
LARGEST_EPS = {LINF: 1.0, L2: 1000.0}

Target = Union[PictureClassifier, torch.nn.Module]


def clip_of(target: Target) -> Any:
    """The CLIP of a target, plain or with an adapter."""
    return target.model if isinstance(target, PictureClassifier) else target


def check_budget(norm: str, eps: float, steps: int, restarts: int, seed: int) -> None:
    """
    Check what every attack has.

    Args:
        norm: "linf" or "l2".
        eps: largest distance to a picture, for pixels in [0, 1].
        steps: number of steps.
        restarts: number of attacks, each from another start.
        seed: seed of the starts.

    Raises:
        ValueError: if a value is out of range.
    """
    one_of(LINF, L2).check(norm, "norm")
    AT_LEAST_ONE.check(steps, "steps")
    AT_LEAST_ONE.check(restarts, "restarts")
    SEED.check(seed, "seed")
    size = number(0, LARGEST_EPS[norm])
    unit = "; pixels are in [0, 1], where 8 of 255 levels are 8 / 255" if norm == LINF else ""
    Rule(size.expected + unit, size.accepts).check(eps, "eps")


@dataclass(frozen=True)
class FixedTarget:
    """
    A target that an attack does not change, as a function of pixels.

    Args:
        target: a classifier; or a CLIP, plain or with an adapter.
        clip: the CLIP of the target.
        normalization: that of the target's image processor.
        clean: N pictures (N, 3, H, W) in [0, 1], in float32 on the target's device.
    """

    target: Target
    clip: Any
    normalization: Normalization
    clean: torch.Tensor

    @property
    def _family(self) -> Family:
        return family_of(self.clip)

    def _pixel_values(self, pixels: torch.Tensor) -> torch.Tensor:
        vision = self._family.vision
        return self.normalization(pixels).to(vision.like(self._family.vision_tower(self.clip)).dtype)

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """The image features (B, D), not normalized, of pixels (B, 3, H, W) in [0, 1]."""
        return self._family.image_features(self.clip, self._pixel_values(pixels))

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """The logits (B, C) of pixels (B, 3, H, W) in [0, 1], in float32. The target must be a classifier."""
        return self.target(pixel_values=self._pixel_values(pixels)).logits.float()

    @property
    def number_of_classes(self) -> int:
        """The number C of classes. The target must be a classifier."""
        return len(cast(PictureClassifier, self.target).class_names)

    def checked_labels(self, labels: Optional[torch.Tensor], needed_by: str) -> torch.Tensor:
        """
        Check that the target is a classifier, and that the labels are labels of the pictures.

        Args:
            labels: what a caller gave.
            needed_by: what needs labels, for the message.

        Returns:
            The labels (N,) on the target's device.

        Raises:
            ValueError: if the target is no classifier, or if the labels are not N whole numbers of its classes.
        """
        if not isinstance(self.target, PictureClassifier):
            raise ValueError(
                f"{needed_by} needs a classifier with labels, such as MuDPTClassifier, but found {type(self.target)}."
            )
        if labels is None:
            raise ValueError(f"{needed_by} needs the labels (N,) of the pictures.")
        labels, number, classes = torch.as_tensor(labels), len(self.clean), self.number_of_classes
        if labels.shape != (number,) or labels.is_floating_point() or labels.is_complex():
            raise ValueError(
                f"labels is a tensor {tuple(labels.shape)} of {labels.dtype}, but must be whole numbers ({number},)."
            )
        if number and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"labels are between {labels.min()} and {labels.max()}, but there are {classes} classes, counted from "
                "0."
            )
        return labels.long().to(self.clean.device)


@contextmanager
def fixed(target: Target, normalization: Normalization, pixels: torch.Tensor) -> Iterator[FixedTarget]:
    """
    Within this context no parameter needs a gradient, so that the classes are encoded once, and no dropout acts.

    Args:
        target: what is attacked.
        normalization: that of its image processor.
        pixels: the pictures (N, 3, H, W) in [0, 1].

    Raises:
        ValueError: if pixels are not in [0, 1].
    """
    check_pixels(pixels)
    clip = clip_of(target)
    family = family_of(clip)
    device = family.vision.like(family.vision_tower(clip)).device
    learned = [parameter for parameter in target.parameters() if parameter.requires_grad]
    with torch.inference_mode(False):
        try:
            for parameter in learned:
                parameter.requires_grad = False
            with eval_mode(target):
                clean = pixels.detach().to(device, torch.float32, copy=True)
                yield FixedTarget(target, clip, normalization, clean)
        finally:
            for parameter in learned:
                parameter.requires_grad = True
