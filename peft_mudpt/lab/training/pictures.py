"""Trains a classifier on the pictures of a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from ...classifier.prediction import PictureClassifier
from ...robust.pixels import Normalization
from ..data.loaders import make_loader
from ..data.loading import Known, TrainingPictures
from ..feature_cache import FeatureCache
from ..recipe import Recipe
from .adversarial import Adversarial
from .averaging import RunningAverage
from .checkpoints import Checkpoints, trainable_tensors
from .features import known_features
from .frozen_clip import FrozenClip
from .loop import Progress, minimize
from .objectives import OBJECTIVES, Anchored
from .validation import Validation


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BaseImageProcessor


def train(
    accelerator: Accelerator,
    classifier: PictureClassifier,
    pictures: Dataset,
    image_processor: BaseImageProcessor,
    recipe: Recipe,
    checkpoints: Optional[Checkpoints] = None,
    frozen_clip: Optional[FrozenClip] = None,
    known: Optional[Sequence[Known]] = None,
    brief: bool = False,
    cache: Optional[FeatureCache] = None,
    validation: Optional[Validation] = None,
) -> Progress:
    """
    Train the parameters that require a gradient, in place.

    Args:
        accelerator: an accelerator that was not used for another model.
        classifier: maps `pixel_values` (B, 3, H, W) or `image_features` (B, D) to the output that the recipe's
            objective needs (see `Objective.loss`).
        pictures: the training pictures (see `FewShotData`).
        image_processor: the image processor of the CLIP model.
        recipe: how to train.
        checkpoints: where and how often to save, and from which checkpoint to resume; None: no checkpoints.
        frozen_clip: what the anchors of the recipe refer to; None: the recipe has no anchors.
        known: features of the pictures that training does not change (see `features.known_features`); None: compute
            them.
        brief: see `loop.minimize`.
        cache: features that earlier runs computed; None: compute them.
        validation: see `loop.minimize`.

    Returns:
        The progress at the end.

    Raises:
        FloatingPointError: if the loss is NaN or infinite, or if a learned weight is beyond `LARGEST_WEIGHT`. The
            state is then not saved, so that the last checkpoint has a finite loss.
        RuntimeError: if the accelerator gives fewer batches than `recipe.steps` needs.
    """
    started = time.perf_counter()
    objective = OBJECTIVES[recipe.objective]()
    if frozen_clip is not None:
        objective = Anchored(objective, recipe.anchors, frozen_clip)
    kept: list[Any] = []
    if recipe.adversarial is not None:
        objective = Adversarial(objective, recipe.adversarial, classifier, Normalization.of(image_processor))
        kept.append(objective)
    average = build_average(accelerator, classifier, len(pictures), recipe)
    classifier.train()
    if known is None:
        known = known_features(
            accelerator, classifier, pictures, image_processor, recipe, objective.needs_frozen_image_features, cache
        )
    loader = training_loader(accelerator, classifier, pictures, image_processor, recipe, known)
    return minimize(
        accelerator, classifier, loader, objective, recipe, checkpoints, kept, average, started, brief, validation
    )


def training_loader(
    accelerator: Accelerator,
    classifier: torch.nn.Module,
    pictures: Dataset,
    image_processor: BaseImageProcessor,
    recipe: Recipe,
    known: Sequence[Known] = (),
) -> DataLoader:
    """
    Make the loader for all batches of a run.

    Args:
        accelerator: each of its processes gets a part of the batches.
        classifier: the classifier that is trained. Its config gives the side of the random crops.
        pictures: the training pictures (see `FewShotData`).
        image_processor: the image processor of the CLIP model.
        recipe: how to train.
        known: see `TrainingPictures`.

    Returns:
        A loader of batches with `labels` (B,), the features of `known` and, unless they hold `image_features`,
        `pixel_values` (B, 3, H, W). `accelerator` must still prepare it.
    """
    crop_size = classifier.family.image_shape(classifier.config)[-1] if recipe.augment else None
    length = recipe.steps * recipe.pictures_per_step(accelerator.num_processes)
    samples = TrainingPictures(pictures, length, recipe.seed, crop_size, image_processor, known)
    return make_loader(accelerator, samples, recipe.batch_size, recipe.num_workers)


def build_average(
    accelerator: Accelerator, model: torch.nn.Module, pictures: int, recipe: Recipe
) -> Optional[RunningAverage]:
    """
    Make the average of the learned parameters over the epochs.

    Args:
        accelerator: its processes share each optimizer step.
        model: the parameters that require a gradient are averaged.
        pictures: number of training pictures.
        recipe: gives the averaging and the length of the run.

    Returns:
        The average, to be advanced after each optimizer step; None if the recipe has none.
    """
    if recipe.averaging is None:
        return None
    pictures_per_step = recipe.pictures_per_step(accelerator.num_processes)
    step_weights = recipe.averaging.step_weights(recipe.steps, pictures_per_step, pictures)
    return RunningAverage(trainable_tensors(model), step_weights)
