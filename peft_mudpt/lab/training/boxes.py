"""Trains a detector on the pictures of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from accelerate import Accelerator

from ...detection import FusionDetector
from ..data.boxes import BoxAugmentation, TrainingBoxes, collate_boxes
from ..data.loaders import make_loader
from ..recipe import Recipe
from .checkpoints import Checkpoints
from .loop import Progress, minimize
from .objectives import OBJECTIVES


if TYPE_CHECKING:
    from datasets import Dataset


def train_detector(
    accelerator: Accelerator,
    detector: FusionDetector,
    pictures: Dataset,
    recipe: Recipe,
    checkpoints: Optional[Checkpoints] = None,
) -> Progress:
    """
    Train the parameters of a detector that require a gradient, in place.

    Args:
        accelerator: an accelerator that was not used for another model.
        detector: the detector, whose loss is the mean over pictures.
        pictures: the training pictures, of `BoxData`.
        recipe: how to train.
        checkpoints: where and how often to save, and from which checkpoint to resume; None: no checkpoints.

    Returns:
        The progress at the end.

    Raises:
        FloatingPointError, RuntimeError: see `minimize`.
    """
    samples = TrainingBoxes(
        pictures,
        recipe.steps * recipe.pictures_per_step(accelerator.num_processes),
        recipe.seed,
        detector.image_processor,
        BoxAugmentation() if recipe.augment else None,
    )
    loader = make_loader(accelerator, samples, recipe.batch_size, recipe.num_workers, collate_fn=collate_boxes)
    objective = OBJECTIVES[recipe.objective]()
    return minimize(accelerator, detector.train(), loader, objective, recipe, checkpoints)
