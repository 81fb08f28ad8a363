"""What every experiment needs at hand: CLIP, its tokenizer and image processor, and how to test with them."""

from __future__ import annotations

from typing import Any, Optional

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoProcessor, AutoTokenizer, PreTrainedModel

from ..classifier.classifier import MuDPTClassifier
from .arguments import Arguments
from .data.loading import PixelCollator, TestPictures
from .evaluation import evaluate
from .methods import LinearProbe
from .protocols import Task


class Bench:
    """The CLIP of an experiment and what belongs to it, on the accelerator's device."""

    def __init__(self, accelerator: Accelerator, arguments: Arguments):
        name = arguments.clip()
        self.accelerator = accelerator
        self.arguments = arguments
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.image_processor = AutoProcessor.from_pretrained(name, backend="pil").image_processor

    def load_clip(self) -> PreTrainedModel:
        """A fresh one, in float32."""
        clip = AutoModel.from_pretrained(self.arguments.clip(), dtype=torch.float32)
        return clip.to(self.accelerator.device)

    def classifier(self, model: torch.nn.Module, class_names: list[str], template: str) -> torch.nn.Module:
        """Images (B, 3, H, W) -> `logits` (B, C), by a CLIP and the texts of the classes or by a linear probe."""
        if isinstance(model, LinearProbe):
            return model
        return MuDPTClassifier(
            model,
            class_names,
            template,
            self.tokenizer,
            self.image_processor,
            class_batch_size=self.arguments.class_batch_size,
        )

    def test(self, model: torch.nn.Module, task: Task, template: Optional[str]) -> dict[str, Optional[dict[str, Any]]]:
        """
        Test a model on every test set of a task.

        Args:
            model: a CLIP, plain or with an adapter, or a linear probe.
            task: whose test sets are meant.
            template: text of a class as the model is fed it; None for each test set's own.

        Returns:
            By test set what `evaluate` says; None where the model cannot name the classes.
        """
        metrics: dict[str, Optional[dict[str, Any]]] = {}
        for name, test in task.tests.items():
            if isinstance(model, LinearProbe) and test.class_names != task.class_names:
                metrics[name] = None
                continue
            loader = DataLoader(
                TestPictures(test.pictures),
                self.arguments.per_device_eval_batch_size,
                collate_fn=PixelCollator(self.image_processor),
                num_workers=self.arguments.dataloader_num_workers,
            )
            classifier = self.classifier(model, test.class_names, template or test.template)
            loader = self.accelerator.prepare(loader)
            metrics[name] = evaluate(self.accelerator, classifier, loader, test.class_names)
        return metrics
