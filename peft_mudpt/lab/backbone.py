"""The CLIP that a run adapts, with its tokenizer and image processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from transformers import AutoModel, AutoProcessor, AutoTokenizer, BaseImageProcessor, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from .. import demo
from ..classifier.classifier import MuDPTClassifier
from .flags import Options, flag
from .probe import LinearProbe


EMBEDDED = "embedded"


@dataclass(frozen=True)
class BackboneOptions(Options):
    """Which CLIP is adapted."""

    model_name_or_path: str = flag(
        EMBEDDED, f"Any CLIP: a Hub id, a folder, or '{EMBEDDED}': the tiny one of drawn shapes."
    )

    def clip(self) -> str:
        """Its Hub id or folder."""
        return demo.MODEL_PATH if self.model_name_or_path == EMBEDDED else self.model_name_or_path


@dataclass(frozen=True)
class Backbone:
    """
    A CLIP by its name, and what prepares texts and pictures for it.

    Args:
        model_name_or_path: Hub id or folder.
        device: where models are put.
        tokenizer: its own.
        image_processor: its own.
        class_batch_size: classes encoded at a time (see `MuDPTClassifier`).
    """

    model_name_or_path: str
    device: torch.device
    tokenizer: Tokenizer
    image_processor: BaseImageProcessor
    class_batch_size: Optional[int] = None

    @classmethod
    def load(cls, model_name_or_path: str, device: torch.device, class_batch_size: Optional[int] = None) -> Backbone:
        """Load what belongs to a CLIP, without its weights."""
        tokenizer = AutoTokenizer.from_pretrained(model_name_or_path)
        image_processor = AutoProcessor.from_pretrained(model_name_or_path, backend="pil").image_processor
        return cls(model_name_or_path, device, tokenizer, image_processor, class_batch_size)

    def load_clip(self) -> PreTrainedModel:
        """A fresh copy of the CLIP, in float32."""
        clip = AutoModel.from_pretrained(self.model_name_or_path, dtype=torch.float32)
        return clip.to(self.device)

    def classifier(self, model: torch.nn.Module, class_names: Sequence[str], template: str) -> torch.nn.Module:
        """Images (B, 3, H, W) -> `logits` (B, C), by a CLIP and the texts of the classes or by a linear probe."""
        if isinstance(model, LinearProbe):
            return model
        return MuDPTClassifier(
            model,
            class_names,
            template,
            self.tokenizer,
            self.image_processor,
            class_batch_size=self.class_batch_size,
        )
