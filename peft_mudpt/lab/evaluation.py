"""Measures the accuracy of a model, in total and per class."""

from __future__ import annotations

from typing import Any, Optional

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from .backbone import Backbone
from .data.loading import TestPictures
from .protocols import Task


def evaluate_task(
    accelerator: Accelerator,
    backbone: Backbone,
    model: torch.nn.Module,
    task: Task,
    template: Optional[str] = None,
    names_new_classes: bool = True,
    batch_size: int = 100,
    num_workers: int = 0,
) -> dict[str, Optional[dict[str, Any]]]:
    """
    Test a model on every test set of a task.

    Args:
        accelerator: the accelerator of the run; each process tests a part of the pictures.
        backbone: the CLIP that the model adapts.
        model: a CLIP, plain or with an adapter, or a linear probe.
        task: the task that holds the test sets.
        template: text of a class, with `{}` for its name; if the model has text prompts, only the part that follows
            them. None: the template of each test set.
        names_new_classes: True if the model can name classes that it was not trained on.
        batch_size: pictures per device and forward pass.
        num_workers: processes that load pictures.

    Returns:
        The metrics of each test set (see `evaluate`); None for a test set whose classes the model cannot name.
    """
    metrics: dict[str, Optional[dict[str, Any]]] = {}
    for name, test in task.tests.items():
        if not names_new_classes and test.class_names != task.class_names:
            metrics[name] = None
            continue
        pictures = TestPictures(test.pictures, backbone.image_processor)
        loader = DataLoader(pictures, batch_size, num_workers=num_workers)
        classifier = backbone.classifier(model, test.class_names, template or test.template)
        metrics[name] = evaluate(accelerator, classifier, accelerator.prepare(loader), test.class_names)
    return metrics


def evaluate(
    accelerator: Accelerator,
    classifier: torch.nn.Module,
    loader: DataLoader,
    class_names: list[str],
) -> dict[str, Any]:
    """
    Measure the accuracy of a classifier.

    Args:
        accelerator: the accelerator that prepared the loader.
        classifier: maps images (B, 3, H, W) to `logits` (B, C).
        loader: batches of `pixel_values` (B, 3, H, W) and `labels` (B,).
        class_names: names of the C classes; the position of a name is its label.

    Returns:
        `accuracy` over all pictures and `mean_class_accuracy` (the mean over the classes that have pictures), both in
        percent, and `classes`, which maps each class name to [number of correct pictures, number of pictures].
    """
    classifier.eval()
    right = torch.zeros(len(class_names), dtype=torch.long)
    seen = torch.zeros(len(class_names), dtype=torch.long)
    with torch.no_grad():  # without autocast, as the classifier will be used
        for batch in loader:
            hits = classifier(batch["pixel_values"]).logits.argmax(dim=-1) == batch["labels"]  # (B,)
            hits, labels = (t.cpu() for t in accelerator.gather_for_metrics((hits, batch["labels"])))
            right += torch.bincount(labels, weights=hits.double(), minlength=len(class_names)).long()
            seen += torch.bincount(labels, minlength=len(class_names))
    present = seen > 0
    return {
        "accuracy": 100 * right.sum().item() / seen.sum().item(),
        "mean_class_accuracy": 100 * (right[present] / seen[present]).double().mean().item(),
        "classes": {name: [r, s] for name, r, s in zip(_distinct(class_names), right.tolist(), seen.tolist())},
    }


def _distinct(names: list[str]) -> list[str]:
    """Append the label to each name that several classes share (ImageNet has such names), and return all names."""
    return [f"{name} [{label}]" if names.count(name) > 1 else name for label, name in enumerate(names)]
