"""The frozen CLIP that anchors refer to: the model in training, with its adapter disabled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Optional

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase

from ...classifier.bank import eval_mode, text_bank
from ...config import Modality
from ...layer import layer_of
from ...towers.registry import family_of


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """
    Within this context a model computes what its plain CLIP computes: no adapter, no dropout, no gradient.

    Args:
        model: the `PeftModel` of a CLIP. Afterwards its modes and `requires_grad` are as before, which
            `disable_adapter` alone does not ensure.
    """
    learned = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with torch.no_grad(), eval_mode(model), model.disable_adapter():
            yield
    finally:
        for parameter, requires_grad in learned:
            parameter.requires_grad = requires_grad


def is_learned(model: torch.nn.Module, modality: Modality) -> bool:
    """
    Check whether training changes the features of a modality.

    Args:
        model: a CLIP with an adapter that is in training.
        modality: "text" or "vision".

    Returns:
        True if the active adapter has prompts in the tower, or if the tower or its projection has a parameter that
        requires a gradient.
    """
    layer = layer_of(model)
    if layer is not None and layer.num_tokens(modality) > 0:
        return True
    parts = family_of(model).towers[modality].feature_parts(model)
    return any(parameter.requires_grad for part in parts for parameter in part.parameters())


def frozen_text_bank(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    class_texts: Sequence[Sequence[str]],
    class_batch_size: Optional[int] = None,
) -> torch.Tensor:
    """
    Encode the texts of C classes by the plain CLIP as PromptSRC does: the mean over the texts of a class, not
    normalized before.

    Args:
        model: the `PeftModel` of a CLIP.
        tokenizer: the tokenizer of the CLIP.
        class_texts: the texts of each class, in the order of the labels.
        class_batch_size: number of texts encoded at a time; None chooses it by the size of the model.

    Returns:
        The features (C, D), of any norm.
    """
    with frozen(model):
        return text_bank(model, tokenizer, class_texts, False, class_batch_size)


class FrozenClip:
    """
    Computes features and logits of the plain CLIP for a model in training. It shares the weights of this model, and
    leaves its gradients alone.

    Args:
        model: the `PeftModel` of a CLIP.
        text_bank: features (C, D) of the classes by the plain CLIP, of any norm; None if only image features are
            needed.
        autocast: makes the context in which images are encoded, such as `Accelerator.autocast`.
    """

    def __init__(
        self,
        model: Any,
        text_bank: Optional[torch.Tensor] = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.model = model
        self.family = family_of(model)
        self.text_bank = text_bank
        self.autocast = autocast

    def image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The normalized features (B, D) of B images (B, 3, H, W), without a gradient."""
        with frozen(self.model), self.autocast():
            features = self.family.image_features(self.model, pixel_values)
        return normalize(features.float(), dim=-1)

    @torch.no_grad()
    def logits(self, image_features: torch.Tensor) -> torch.Tensor:
        """The logits (B, C) of B images for the classes of the bank, from normalized image features (B, D)."""
        class_features = normalize(self.text_bank, dim=-1)  # (C, D)
        # known features may be in the precision of training
        return self.family.logits(self.model, image_features.to(class_features.dtype) @ class_features.t())
