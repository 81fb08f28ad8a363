"""Measures the accuracy of a model, in total and per class, and how far its probabilities can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache as once
from functools import partial
from typing import Any, Optional, Union

import torch
from accelerate import Accelerator

from ..calibration.calibration import Calibration
from ..classifier.bank import eval_mode
from ..classifier.class_texts import ClassTexts
from ..classifier.prediction import PictureClassifier
from .backbone import Backbone
from .calibration import measured
from .data.loading import check_pictures
from .feature_cache import FeatureCache
from .logits import logits_of, prepared_loader
from .mistakes import mistakes_of
from .protocols import Task


VALIDATION = "validation pictures"  # the name of their features beside those of test sets


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
    calibration: Optional[Calibration] = None,
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
        cache: features and, of a plain CLIP, logits of earlier runs; None: compute them.
        is_plain: True if the model is a CLIP without an adapter.
        calibration: what `calibrate_task` found for the model; None: nothing.

    Returns:
        The metrics of each test set (see `metrics_of`) with those of `mistakes_of` and of `calibration.measured`; None
        for a test set whose classes the model cannot name.

    Raises:
        ValueError: if pictures cannot be read. The message lists those of all test sets.
    """
    loading = {"batch_size": batch_size, "num_workers": num_workers}
    metrics: dict[str, Optional[dict[str, Any]]] = {}
    for name, test in task.tests.items():
        same_classes = test.class_names == task.class_names
        if not names_new_classes and not same_classes:
            metrics[name] = None
            continue
        classifier = backbone.classifier(model, test.class_names, texts or test.template).eval()
        given = (accelerator, classifier, test.pictures, backbone, loading)
        try:
            load = partial(prepared_loader, *given, name, features, cache)
            logits = logits_of(*given, cache if is_plain else None, load)
        except ValueError:
            # names every picture that cannot be read, instead of the first
            check_pictures(test.pictures, *(other.pictures for other in task.tests.values() if other is not test))
            raise
        labels, items = test.pictures["label"][:], test.pictures["item"][:]
        # of other classes, the classifier of the run is not calibrated
        temperature = calibration.temperature if calibration is not None and same_classes else None
        metrics[name] = {
            **metrics_of(logits.argmax(dim=-1), labels, test.class_names, items),
            "mistakes": mistakes_of(logits, labels, distinct(test.class_names), items, temperature),
            "mistakes_temperature": temperature,
            "calibration": measured(logits, labels, calibration, same_classes),
        }
    return metrics


class ValidationPictures:
    """
    The validation pictures of a task, which are loaded in the same way for each test.

    Args:
        accelerator: the accelerator of the run; each process reads a part of the pictures.
        backbone: the CLIP that the classifier adapts.
        classifier: the classifier of the training classes.
        task: the task that holds the pictures.
        batch_size: pictures per device and forward pass.
        num_workers: processes that load pictures; None: see `choose_workers`.
        features: as in `evaluate_task`, under the name `VALIDATION`.
        cache: as in `evaluate_task`.
        is_plain: as in `evaluate_task`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        backbone: Backbone,
        classifier: PictureClassifier,
        task: Task,
        batch_size: int = 100,
        num_workers: Optional[int] = None,
        features: Optional[dict[str, torch.Tensor]] = None,
        cache: Optional[FeatureCache] = None,
        is_plain: bool = False,
    ):
        self._classifier, self._pictures = classifier, task.validation
        loading = {"batch_size": batch_size, "num_workers": num_workers}
        given = (accelerator, classifier, self._pictures, backbone, loading)
        # prepared once, because the accelerator keeps every loader that it prepares
        load = once(partial(prepared_loader, *given, VALIDATION, features, cache))
        self._compute = partial(logits_of, *given, cache if is_plain else None, load)

    def logits(self) -> torch.Tensor:
        """
        Compute the logits (N, C) of the N pictures. A classifier in training mode is in it again afterwards.

        Raises:
            ValueError: if pictures cannot be read. The message lists all of them.
        """
        with eval_mode(self._classifier):
            try:
                return self._compute()
            except ValueError:
                check_pictures(self._pictures)  # names every picture that cannot be read
                raise

    def accuracy(self) -> float:
        """The accuracy of the classifier, as it is now, in percent. Raises a ValueError as `logits`."""
        return accuracy_of(self.logits(), self._pictures["label"][:])


def calibrate_task(task: Task, logits: Callable[[], torch.Tensor]) -> Optional[Calibration]:
    """
    Calibrate a classifier on the validation pictures of a task.

    Args:
        task: the task that holds the validation pictures.
        logits: computes their logits (see `ValidationPictures`).

    Returns:
        The calibration; None if there are no validation pictures, or if the task tests on them.
    """
    if task.calibration_pictures is None:
        return None
    return Calibration.fit(logits(), task.validation["label"][:])


def accuracy_of(logits: torch.Tensor, labels: Sequence[int]) -> float:
    """
    Compute an accuracy.

    Args:
        logits: logits (N, C) of N pictures.
        labels: positions of the classes of the N pictures.

    Returns:
        The percentage of pictures whose highest logit is that of their class.
    """
    return 100 * (logits.argmax(dim=-1) == torch.tensor(labels)).sum().item() / len(labels)


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
