"""The text bank: one text feature per class, the mean over the texts of the class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional, TypeVar

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase

from ..towers.registry import family_of
from .encoding import encode_layout
from .layout import lay_out_classes
from .texts import text_owners, tokenize_texts


Result = TypeVar("Result")


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Within this context no module of the model is in training mode, so that there is no dropout."""
    in_training = [module for module in model.modules() if module.training]
    try:
        for module in in_training:
            module.training = False
        yield
    finally:
        for module in in_training:
            module.training = True


def in_eval_mode(model: torch.nn.Module, compute: Callable[[], Result]) -> Result:
    """
    What `compute` gives while the model is in evaluation mode. What is computed once and used again in training must
    not depend on what dropout drew then.
    """
    with eval_mode(model):
        return compute()


def text_bank(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    class_texts: Sequence[Sequence[str]],
    normalize_each: bool = True,
    class_batch_size: Optional[int] = None,
) -> torch.Tensor:
    """
    Encode C classes of one or more texts each, by the model as it is now, but without dropout (CLIP's prompt
    ensembles, arXiv 2103.00020, section 3.1.4).

    Disable the adapter for the bank of the frozen CLIP. To normalize each text is CLIP's own way; to take the mean
    before normalizing is that of PromptSRC (arXiv 2307.06948).

    Args:
        model: a CLIP, plain or with an adapter.
        tokenizer: the CLIP's own tokenizer.
        class_texts: the texts of each class, in the order of the labels. Classes may differ in their number.
        normalize_each: True to divide each text's feature by its L2 norm before the mean.
        class_batch_size: number of texts that are encoded at a time; None chooses it by the size of the model.

    Returns:
        The means (C, D), without a gradient. Their L2 norms are not 1: normalize them for use.

    Raises:
        ValueError: if there are no classes, if a class has no texts or a blank one, or if a text is too long.
    """
    family = family_of(model)
    tokens = tokenize_texts(tokenizer, class_texts, family.text.pad_multiple(family.text_tower(model)))
    # outside of inference mode, so that a loss can use them inside and outside of it
    with torch.inference_mode(False), torch.no_grad(), eval_mode(model):
        groups = lay_out_classes(model, tokens, class_batch_size, text_owners(class_texts))
        features = encode_layout(model, groups)  # (T, D)
        return mean_of_texts(normalize(features, dim=-1) if normalize_each else features, list(map(len, class_texts)))


def mean_of_texts(features: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
    """
    The mean over the texts of each class.

    Args:
        features: features (..., T, D) of the texts, class by class.
        numbers: the numbers of texts of the C classes; their sum is T.

    Returns:
        The means (..., C, D).
    """
    return torch.stack([texts.mean(dim=-2) for texts in features.split(list(numbers), dim=-2)], dim=-2)
