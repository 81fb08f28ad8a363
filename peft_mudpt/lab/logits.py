"""Computes the logits of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Optional

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..classifier.prediction import PictureClassifier
from .backbone import Backbone
from .data.loaders import make_loader
from .data.loading import IMAGE_FEATURES, TestPictures, images_of
from .feature_cache import FeatureCache, cached
from .feature_keys import image_features_key, logits_key
from .training.features import encode


if TYPE_CHECKING:
    from datasets import Dataset


def prepared_loader(
    accelerator: Accelerator,
    classifier: PictureClassifier,
    pictures: Dataset,
    backbone: Backbone,
    loading: dict[str, Any],
    name: str,
    features: Optional[dict[str, torch.Tensor]],
    cache: Optional[FeatureCache],
) -> DataLoader:
    """
    Make a loader of pictures, or of their features, and prepare it.

    Args:
        accelerator: the accelerator of the run, which keeps the loader.
        classifier: the classifier whose features are meant.
        pictures: the pictures.
        backbone: the CLIP of the classifier.
        loading: `batch_size` and `num_workers`, as in `evaluation.evaluate_task`.
        name: the name of these pictures in `features`.
        features: image features (N, D) by name, to which those that are missing are added; None: load the pictures.
        cache: features of earlier runs; None: compute them.

    Returns:
        The loader.
    """
    known = None
    if features is not None:
        if name not in features:
            features[name] = encode(
                accelerator, classifier, pictures, backbone.image_processor, **loading, cache=cache
            )
        known = {IMAGE_FEATURES: features[name]}
    samples = TestPictures(pictures, backbone.image_processor, known)
    return accelerator.prepare(make_loader(accelerator, samples, **loading))


def logits_of(
    accelerator: Accelerator,
    classifier: PictureClassifier,
    pictures: Dataset,
    backbone: Backbone,
    loading: dict[str, Any],
    cache: Optional[FeatureCache],
    load: Callable[[], DataLoader],
) -> torch.Tensor:
    """
    Compute the logits of pictures, or take them from the cache.

    Args:
        accelerator: each of its processes classifies a part of the pictures.
        classifier: the classifier.
        pictures: the pictures.
        backbone: the CLIP of the classifier.
        loading: `batch_size` and `num_workers`, as in `evaluation.evaluate_task`.
        cache: logits of earlier runs; None: compute them.
        load: makes the loader of the pictures (see `prepared_loader`).

    Returns:
        The logits (N, C) of N pictures.
    """

    def key() -> dict[str, Any]:
        images = image_features_key(accelerator, classifier, backbone.image_processor, pictures, loading["batch_size"])
        return logits_key(images, classifier, backbone.tokenizer)

    return cached(accelerator, cache, key, lambda: predict_logits(accelerator, classifier, load()))


def predict_logits(
    accelerator: Accelerator,
    classifier: torch.nn.Module,
    loader: DataLoader,
    images: Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]] = images_of,
    title: str = "testing",
    progress_bar: bool = True,
) -> torch.Tensor:
    """
    Compute the logits of pictures.

    Args:
        accelerator: each of its processes classifies a part of the pictures, and gets all logits.
        classifier: maps images (B, 3, H, W), or their features (B, D), to `logits` (B, C).
        loader: batches of `pixel_values` (B, 3, H, W) or `image_features` (B, D), prepared by the accelerator.
        images: what the classifier gets of a batch.
        title: title of the progress bar.
        progress_bar: whether to show one.

    Returns:
        The logits (N, C) in float32, in the order of the loader, on the CPU. The position of the highest one is the
        predicted class.
    """
    classifier.eval()
    found = []
    quiet = not (progress_bar and accelerator.is_local_main_process)
    bar = tqdm(loader, desc=title, leave=False, disable=quiet)
    with torch.no_grad(), bar as batches:  # without autocast, as the classifier will be used
        for batch in batches:
            logits = classifier(**images(batch)).logits.float()  # (B, C)
            found.append(accelerator.gather_for_metrics(logits).cpu())
    return torch.cat(found)
