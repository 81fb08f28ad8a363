"""What a classifier of pictures knows about its own probabilities."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from reprlib import repr as short_repr
from typing import TYPE_CHECKING, Optional, Union, cast

import torch

from ..calibration.calibration import Calibration
from ..calibration.conformal import ConformalSets
from ..calibration.labels import Labels


if TYPE_CHECKING:
    from .reading import Errors, Images

NO_TEMPERATURE = (
    "The {} pictures of the calibration determine no temperature: the logits tell no more about their labels than "
    "chance, or are highest for several classes at once. Check the labels and the names of the classes, or train. "
    "Sets of classes need no temperature."
)


class Calibrated:
    """
    A classifier that can be calibrated on held-out pictures.

    Attributes:
        class_names: names of the C classes; the position of a name is its label.
        calibration: what held-out pictures tell about the probabilities; None if it was not measured.
    """

    class_names: list[str]
    calibration: Optional[Calibration] = None

    @abstractmethod
    def _logits_of_each(self, images: Images, batch_size: int, errors: Errors, num_workers: int) -> torch.Tensor:
        """The logits (N, C) in float32 of images; NaN for an image that was skipped."""

    def calibrate(
        self, images: Images, labels: Sequence[Union[int, str]], batch_size: int = 32, num_workers: int = 0
    ) -> Calibration:
        """
        Measure on held-out images how certain the classifier may be, and keep the answer as `calibration`. The logits
        stay as they are. Calibrate again after training.

        Args:
            images, batch_size, num_workers: see `predict_proba`. Neither training nor the choice of its options may
                have used these images.
            labels: the class of each image: its name or its index.

        Returns:
            The calibration. It warns if the images determine no temperature.

        Raises:
            ValueError: as `predict_proba`; also if a label is no class, or if there are more or fewer than images.
        """
        indices = self._indices(labels)
        logits = self._logits_of_each(images, batch_size, "raise", num_workers)
        self.calibration = calibration = Calibration.fit(logits.cpu(), indices)
        if calibration.temperature is None:
            warnings.warn(NO_TEMPERATURE.format(calibration.pictures), stacklevel=2)
        return calibration

    def _indices(self, labels: Sequence[Union[int, str]]) -> Labels:
        if isinstance(labels, torch.Tensor) or not any(isinstance(label, str) for label in labels):
            return cast(Labels, labels)
        times = Counter(self.class_names)
        unknown = [label for label in labels if times[cast(str, label)] != 1]
        if unknown:
            raise ValueError(
                f"labels holds {short_repr(unknown[0])}, which is not the name of one class. Give names of "
                f"{short_repr(self.class_names)}, or their indices."
            )
        places = {name: index for index, name in enumerate(self.class_names)}
        return [places[cast(str, label)] for label in labels]

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise ValueError(
                "The classifier has no calibration for its classes and texts. Calibrate it on pictures that were held "
                "out from training: classifier.calibrate(images, labels)."
            )
        return self.calibration

    def temperature(self) -> float:
        """
        The temperature by which calibrated probabilities divide the logits.

        Raises:
            ValueError: if there is no calibration, or if its images determine no temperature.
        """
        calibration = self._calibrated()
        if calibration.temperature is None:
            raise ValueError(NO_TEMPERATURE.format(calibration.pictures))
        return calibration.temperature

    def temperature_for(self, calibrated: Optional[bool] = None) -> Optional[float]:
        """
        The temperature by which probabilities divide the logits; None if they are not calibrated.

        Args:
            calibrated: whether they are to be calibrated; None: if the calibration has a temperature.

        Raises:
            ValueError: with `calibrated=True`, if there is no temperature.
        """
        if calibrated is None:
            return None if self.calibration is None else self.calibration.temperature
        return self.temperature() if calibrated else None

    def sets(self, coverage: float = 0.9, per_class: bool = False) -> ConformalSets:
        """
        The function that finds the sets of `predict_sets` from logits.

        Args:
            coverage, per_class: see `predict_sets`.

        Raises:
            ValueError: if there is no calibration, or if it has too few images.
        """
        return self._calibrated().sets(coverage, per_class)
