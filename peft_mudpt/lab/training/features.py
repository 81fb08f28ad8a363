"""Image features that training does not change. They are computed once instead of in each step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import torch
from accelerate import Accelerator
from torch.nn.functional import normalize
from tqdm import tqdm

from ...classifier.prediction import PictureClassifier
from ...robust.attacks import EMBEDDING_KL
from ...robust.bank import AdversarialBank
from ..adversarial import AdversarialTraining
from ..data.loaders import make_loader
from ..data.loading import (
    CLEAN_IMAGE_FEATURES,
    CROP_RULE,
    FROZEN_IMAGE_FEATURES,
    IMAGE_FEATURES,
    PicturesOfView,
    TestPictures,
    View,
    picture,
)
from ..environment import random_state, set_random_state
from ..feature_cache import FeatureCache, cached
from ..feature_keys import image_features_key
from ..recipe import Recipe
from .frozen_clip import frozen


if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image
    from transformers import BaseImageProcessor


def known_features(
    accelerator: Accelerator,
    classifier: PictureClassifier,
    pictures: Dataset,
    image_processor: BaseImageProcessor,
    recipe: Recipe,
    needs_frozen: bool = False,
    cache: Optional[FeatureCache] = None,
) -> list[dict[str, torch.Tensor]]:
    """
    Compute the features of the training pictures that are the same in each epoch, in the precision of training.

    Args:
        accelerator: each of its processes computes a part of the features, and gets all of them.
        classifier: the classifier, in training mode.
        pictures: the N training pictures (see `FewShotData`).
        image_processor: the image processor of the CLIP.
        recipe: how to train.
        needs_frozen: True if the features of CLIP without its adapter are needed.
        cache: features of earlier runs; None: compute them.

    Returns:
        Normalized features (N, D), for `TrainingPictures`: `image_features` if training changes no image feature, and
        `frozen_image_features` if `needs_frozen`. If the recipe is adversarial, `image_features` are those of attacked
        pictures, and are missing if the attack depends on what is learned; `clean_image_features` are those of the
        pictures themselves. The list has one item, or one for each cached view; it is empty if the pictures are
        augmented without cached views, because they then change.

    Raises:
        ValueError: if the bank that the recipe names does not belong to the run, or if the attack runs once although
            it is to be repeated.
    """
    known: dict[str, torch.Tensor] = {}
    loading = {"batch_size": recipe.batch_size, "num_workers": recipe.num_workers, "cache": cache}
    if recipe.cached_views is not None:
        if not has_fixed_image_features(classifier):
            raise ValueError(
                f"--cached_views {recipe.cached_views}: training changes the image features, so that they cannot be "
                "encoded once. Leave it out, or choose a method without vision prompts, such as coop."
            )
        side = classifier.family.image_shape(classifier.config)[-1]
        views = [View(number, recipe.seed, side) for number in range(recipe.cached_views)]
        with accelerator.autocast():
            return [
                {IMAGE_FEATURES: encode(accelerator, classifier, pictures, image_processor, **loading, view=view)}
                for view in views
            ]
    if recipe.augment:
        return []
    adversarial = recipe.adversarial
    if adversarial is not None:
        if adversarial.attack.objective == EMBEDDING_KL and has_fixed_image_features(classifier):
            if adversarial.refresh_every > 1:
                raise ValueError(
                    f"--refresh_every {adversarial.refresh_every}: this attack runs once, because it does not depend "
                    "on what is learned. Leave it out."
                )
            bank = _bank(accelerator, classifier, pictures, image_processor, adversarial, recipe.batch_size)
            known[IMAGE_FEATURES] = normalize(bank.embeddings, dim=-1)
            if adversarial.clean_weight:
                with accelerator.autocast():
                    clean = encode(accelerator, classifier, pictures, image_processor, **loading)
                known[CLEAN_IMAGE_FEATURES] = clean
        elif adversarial.bank is not None:
            raise ValueError(
                f"--adversarial_bank {adversarial.bank}: this attack depends on what is learned, so that its "
                "embeddings cannot be kept. Leave it out, or learn text prompts alone, with the default "
                "--attack_objective."
            )
    elif has_fixed_image_features(classifier):
        with accelerator.autocast():
            known[IMAGE_FEATURES] = encode(accelerator, classifier, pictures, image_processor, **loading)
    if needs_frozen:
        with accelerator.autocast(), frozen(classifier.model):
            known[FROZEN_IMAGE_FEATURES] = encode(accelerator, classifier, pictures, image_processor, **loading)
    return [known]


def _bank(
    accelerator: Accelerator,
    classifier: PictureClassifier,
    pictures: Dataset,
    image_processor: BaseImageProcessor,
    training: AdversarialTraining,
    batch_size: int,
) -> AdversarialBank:
    """The embeddings of the attacked pictures, from the file that the run names, or written to it."""
    path = None if training.bank is None else Path(training.bank)
    quiet = not accelerator.is_local_main_process

    def opened(doing: str) -> Iterator[Image]:
        return map(picture, tqdm(pictures, desc=f"{doing} training pictures", leave=False, disable=quiet))

    if path is not None and path.exists():
        bank = AdversarialBank.load(path)
        bank.check(classifier, opened("checking"), image_processor, training.attack)
        return bank
    # each process attacks all pictures, because a bank is made by one
    bank = AdversarialBank.build(
        classifier, opened("attacking"), pictures["label"][:], training.attack, image_processor, batch_size
    )
    if path is not None and accelerator.is_main_process:
        bank.save(path)
    return bank


def has_fixed_image_features(classifier: PictureClassifier) -> bool:
    """
    Find out whether training leaves the image features of a picture as they are, by computing those of one picture
    twice: they then need no gradient and, without dropout, are equal.

    Args:
        classifier: the classifier, in training mode.

    Returns:
        True if no image feature changes in training.
    """
    model, state = classifier.model, random_state()
    shape = classifier.family.image_shape(classifier.config)
    picture = torch.zeros(1, *shape, device=model.device, dtype=model.dtype)
    with torch.enable_grad():
        first, second = (classifier.image_features(picture) for _ in range(2))
    set_random_state(state)  # dropout has drawn numbers
    return not first.requires_grad and torch.allclose(first, second)


@torch.no_grad()
def encode(
    accelerator: Accelerator,
    classifier: PictureClassifier,
    pictures: Dataset,
    image_processor: BaseImageProcessor,
    batch_size: int,
    num_workers: Optional[int] = None,
    cache: Optional[FeatureCache] = None,
    view: Optional[View] = None,
) -> torch.Tensor:
    """
    Compute the features of pictures, each picture once, unless the cache has them.

    Args:
        accelerator: each of its processes encodes a part of the pictures.
        classifier: the classifier whose image tower is used.
        pictures: a split of `FewShotData` with N pictures.
        image_processor: the image processor of the CLIP.
        batch_size: pictures per device and forward pass.
        num_workers: processes that load pictures; None: see `choose_workers`.
        cache: features of earlier runs; None: compute them.
        view: a random crop of each picture, which is encoded in its place; None: the picture as in a test.

    Returns:
        The normalized features (N, D) in the order of `pictures`, on the CPU.
    """

    def key() -> dict[str, Any]:
        pictures_key = image_features_key(accelerator, classifier, image_processor, pictures, batch_size)
        return pictures_key if view is None else {**pictures_key, "view": [CROP_RULE, *view]}

    def compute() -> torch.Tensor:
        samples = (
            TestPictures(pictures, image_processor)
            if view is None
            else PicturesOfView(pictures, image_processor, view)
        )
        return _encode(accelerator, classifier, samples, batch_size, num_workers)

    return cached(accelerator, cache, key, compute)


def _encode(
    accelerator: Accelerator,
    classifier: PictureClassifier,
    samples: torch.utils.data.Dataset,
    batch_size: int,
    num_workers: Optional[int],
) -> torch.Tensor:
    loader = make_loader(accelerator, samples, batch_size, num_workers)
    quiet = not accelerator.is_local_main_process
    found = []
    for batch in tqdm(accelerator.prepare(loader), desc="encoding pictures", leave=False, disable=quiet):
        features = classifier.image_features(batch["pixel_values"])
        found.append(accelerator.gather_for_metrics(features).cpu())
    return torch.cat(found)
