"""Functions that apply a method to a detector. Each returns a `Learner`: a model that is ready to be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from peft import PeftConfig, get_peft_model

from ...classifier.pictures import pixel_values
from ...detection import FusionDetector
from ...library_warnings import without_known_warnings
from ..learner import BaseGround, Learner


@dataclass(frozen=True)
class DetectorGround(BaseGround):
    """
    The detector and the classes to which a method is applied.

    Args:
        detector: the detector of the classes. Its model is ready for PEFT (see `prepare_detector_for_peft`), and is
            changed in place: it is frozen, and gets the adapter.
        fields: fields of the adapter's config, or options of the method, that replace the method's defaults.
        revision: the detector's revision on the Hub, which the adapter's config records; None: the main branch.
    """

    detector: FusionDetector
    fields: Mapping[str, Any] = field(default_factory=dict)
    revision: Optional[str] = None

    @property
    def model(self) -> Any:  # type: ignore[override]
        """The model of the detector."""
        return self.detector.model

    @property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        """The classes, which the config of SDPT notes."""
        return self.detector.class_names

    def add_adapter(self, config: PeftConfig, starts_from_words: bool = True) -> Learner:
        if hasattr(config, "class_names"):
            config.class_names = list(self.class_names)
        with without_known_warnings():
            return Learner(get_peft_model(self.model, config, revision=self.revision))


def train_all(ground: DetectorGround) -> Learner:
    """
    Train all weights that the loss reaches. Others stay frozen, because several processes could not train them: those
    that only propose boxes, from copies without a gradient, and layers of the backbone whose output is not used.

    Args:
        ground: the detector and the classes.

    Returns:
        The learner, whose model is the detector.
    """
    detector = ground.detector
    parameters = list(ground.model.requires_grad_(True).parameters())
    box = {"class_labels": torch.zeros(1, dtype=torch.long), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]])}
    blank = _blank(detector).to(ground.model.device)
    loss = detector.train()(blank, labels=[{name: value.to(blank.device) for name, value in box.items()}]).loss
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients):
        parameter.requires_grad = gradient is not None
    return Learner(ground.model)


def _blank(detector: FusionDetector) -> torch.Tensor:
    """A gray picture (1, 3, H, W)."""
    from PIL import Image

    return pixel_values(Image.new("RGB", (64, 64), "gray"), detector.image_processor)[None]
