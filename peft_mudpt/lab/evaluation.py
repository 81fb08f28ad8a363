"""Measures the accuracy of a model, in total and per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Optional, Union

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import BaseImageProcessor

from ..classifier.class_texts import ClassTexts
from ..classifier.prediction import PictureClassifier
from .backbone import Backbone
from .data.loaders import make_loader
from .data.loading import IMAGE_FEATURES, TestPictures, check_pictures, images_of
from .feature_cache import FeatureCache, cached
from .feature_keys import image_features_key, predictions_key
from .protocols import Task, TestSet
from .training.features import encode


def evaluate_task(
    accelerator: Accelerator,
    backbone: Backbone,
    model: torch.nn.Module,
    task: Task,
    texts: Union[str, ClassTexts, None] = None,
    names_new_classes: bool = True,
    batch_size: int = 100,
    num_workers: Optional[int] = None,
    features: Optional[dict[str, torch.Tensor]] = None,
    cache: Optional[FeatureCache] = None,
    is_plain: bool = False,
) -> dict[str, Optional[dict[str, Any]]]:
    """
    Test a model on every test set of a task.

    Args:
        accelerator: the accelerator of the run; each process tests a part of the pictures.
        backbone: the CLIP that the model adapts.
        model: a CLIP, plain or with an adapter, or a linear probe.
        task: the task that holds the test sets.
        texts: text of a class, with `{}` for its name, or several texts; if the model has text prompts, only the part
            that follows them. None: the template of each test set.
        names_new_classes: True if the model can name classes that it was not trained on.
        batch_size: pictures per device and forward pass.
        num_workers: processes that load pictures; None: see `choose_workers`.
        features: normalized image features (N, D) of the model, by test set, to encode the N pictures of a test set
            only once for several models that share them. Those of test sets that are missing are added. None: encode
            the pictures.
        cache: features and, of a plain CLIP, predictions of earlier runs; None: compute them.
        is_plain: True if the model is a CLIP without an adapter.

    Returns:
        The metrics of each test set (see `metrics_of`); None for a test set whose classes the model cannot name.

    Raises:
        ValueError: if pictures cannot be read. The message lists those of all test sets.
    """
    loading = {"batch_size": batch_size, "num_workers": num_workers}
    image_processor = backbone.image_processor
    metrics: dict[str, Optional[dict[str, Any]]] = {}
    for name, test in task.tests.items():
        if not names_new_classes and test.class_names != task.class_names:
            metrics[name] = None
            continue
        classifier = backbone.classifier(model, test.class_names, texts or test.template).eval()
        encoded = partial(encode, accelerator, classifier, test.pictures, image_processor, **loading, cache=cache)
        predicted = partial(_predict, accelerator, classifier, test, image_processor, loading, name, encoded, features)
        key = partial(_key, accelerator, classifier, test, backbone, batch_size)
        try:
            found = cached(accelerator, cache if is_plain else None, key, predicted)
        except ValueError:
            # names every picture that cannot be read, instead of the first
            check_pictures(test.pictures, *(other.pictures for other in task.tests.values() if other is not test))
            raise
        metrics[name] = metrics_of(found, test.pictures["label"][:], test.class_names, test.pictures["item"][:])
    return metrics


def _key(
    accelerator: Accelerator, classifier: PictureClassifier, test: TestSet, backbone: Backbone, batch_size: int
) -> dict[str, Any]:
    """What the predictions of a plain CLIP depend on."""
    images = image_features_key(accelerator, classifier, backbone.image_processor, test.pictures, batch_size)
    return predictions_key(images, classifier, backbone.tokenizer)


def _predict(
    accelerator: Accelerator,
    classifier: PictureClassifier,
    test: TestSet,
    image_processor: BaseImageProcessor,
    loading: dict[str, Any],
    name: str,
    encoded: Callable[[], torch.Tensor],
    features: Optional[dict[str, torch.Tensor]],
) -> torch.Tensor:
    """The predicted classes (N,) of a test set, from `features`, to which those that are missing are added."""
    known = None
    if features is not None:
        if name not in features:
            features[name] = encoded()
        known = {IMAGE_FEATURES: features[name]}
    samples = TestPictures(test.pictures, image_processor, known)
    return predict_labels(accelerator, classifier, make_loader(accelerator, samples, **loading))


def predict_labels(
    accelerator: Accelerator,
    classifier: torch.nn.Module,
    loader: DataLoader,
    images: Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]] = images_of,
    title: str = "testing",
    progress_bar: bool = True,
) -> torch.Tensor:
    """
    Predict the classes of pictures.

    Args:
        accelerator: each of its processes predicts a part of the pictures, and gets all predictions.
        classifier: maps images (B, 3, H, W), or their features (B, D), to `logits` (B, C).
        loader: batches of `pixel_values` (B, 3, H, W) or `image_features` (B, D).
        images: what the classifier gets of a batch.
        title: title of the progress bar.
        progress_bar: whether to show one.

    Returns:
        The positions (N,) of the predicted classes, in the order of the loader, on the CPU.
    """
    classifier.eval()
    found = []
    quiet = not (progress_bar and accelerator.is_local_main_process)
    bar = tqdm(accelerator.prepare(loader), desc=title, leave=False, disable=quiet)
    with torch.no_grad(), bar as batches:  # without autocast, as the classifier will be used
        for batch in batches:
            predicted = classifier(**images(batch)).logits.argmax(dim=-1)  # (B,)
            found.append(accelerator.gather_for_metrics(predicted).cpu())
    return torch.cat(found)


def metrics_of(
    predicted: torch.Tensor, labels: Sequence[int], class_names: list[str], items: Sequence[str]
) -> dict[str, Any]:
    """
    Compare predictions with the labels.

    Args:
        predicted: positions (N,) of the predicted classes.
        labels: positions of the classes of the N pictures.
        class_names: names of the C classes; the position of a name is its label.
        items: names of the N pictures.

    Returns:
        `accuracy` over all pictures and `mean_class_accuracy` (the mean over the classes that have pictures), both in
        percent; `classes`, which maps each class name to [number of correct pictures, number of pictures]; and
        `predictions`, which maps each class name to the predicted class of each of its pictures, by item.
    """
    true = torch.tensor(labels)  # (N,)
    right = torch.bincount(true[predicted == true], minlength=len(class_names))
    seen = torch.bincount(true, minlength=len(class_names))
    present = seen > 0
    names = distinct(class_names)
    predictions: dict[str, dict[str, str]] = {name: {} for name, s in zip(names, seen.tolist()) if s}
    for item, label, guess in zip(items, labels, predicted.tolist(), strict=True):
        predictions[names[label]][item] = names[guess]
    return {
        "accuracy": 100 * right.sum().item() / seen.sum().item(),
        "mean_class_accuracy": 100 * (right[present] / seen[present]).double().mean().item(),
        "classes": {name: [r, s] for name, r, s in zip(names, right.tolist(), seen.tolist())},
        "predictions": predictions,
    }


def distinct(names: Sequence[str]) -> list[str]:
    """
    Tell apart classes that share a name; ImageNet has such classes.

    Args:
        names: names of classes in the order of their labels.

    Returns:
        The names, with the label appended to each name that occurs more than once.
    """
    number = Counter(names)
    return [f"{name} [{label}]" if number[name] > 1 else name for label, name in enumerate(names)]
