"""How many pictures a model names rightly, class by class."""

from __future__ import annotations

from typing import Any, Optional

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from .backbone import Backbone
from .data.loading import PixelCollator, TestPictures
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
        accelerator: its processes share out the pictures.
        backbone: the CLIP that the model adapts.
        model: a CLIP, plain or with an adapter, or a linear probe.
        task: whose test sets are meant.
        template: text of a class as the model is fed it; None for each test set's own.
        names_new_classes: whether the model can name other classes than those it was trained on.
        batch_size: pictures per device.
        num_workers: processes that read pictures.

    Returns:
        By test set what `evaluate` returns; None where the model cannot name the classes.
    """
    metrics: dict[str, Optional[dict[str, Any]]] = {}
    for name, test in task.tests.items():
        if not names_new_classes and test.class_names != task.class_names:
            metrics[name] = None
            continue
        collator = PixelCollator(backbone.image_processor)
        loader = DataLoader(TestPictures(test.pictures), batch_size, collate_fn=collator, num_workers=num_workers)
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
    Accuracy over all pictures, mean of the classes' own accuracies (both in percent), and what each class got right.

    Args:
        accelerator: that prepared the loader.
        classifier: images (B, 3, H, W) -> `logits` (B, C).
        loader: batches of `pixel_values` (B, 3, H, W) and `labels` (B,).
        class_names: by label.

    Returns:
        `accuracy`, `mean_class_accuracy`, and `classes`: name -> [right, seen].
    """
    classifier.eval()
    right = torch.zeros(len(class_names), dtype=torch.long)
    seen = torch.zeros(len(class_names), dtype=torch.long)
    with torch.no_grad():  # and in float32, as it will be used
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
    """`names`, with the label behind those that several classes share (ImageNet has some)."""
    return [f"{name} [{label}]" if names.count(name) > 1 else name for label, name in enumerate(names)]
