"""The condition of text prompts that depend on the class: the text features of the classes in the frozen CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Optional

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase

from ..layer import MuDPTLayer, layer_of
from ..towers.base import part
from .bank import text_bank
from .class_texts import ClassTexts, active_config
from .staleness import Kept, text_state


class ClassCondition:
    """
    The text features of classes, each with L2 norm 1, in the CLIP without prompts. They are computed once, and again
    if a weight has changed that they depend on, such as that of a LoRA adapter beside the prompts.

    Args:
        tokenizer: the CLIP's own tokenizer.
        class_names: names of the classes.
        class_batch_size: number of classes that are encoded at a time; None chooses it by the size of the model.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, class_names: Sequence[str], class_batch_size: Optional[int] = None
    ):
        self._tokenizer = tokenizer
        self._class_names = class_names
        self._class_batch_size = class_batch_size
        self._kept: dict[str, Kept[torch.Tensor]] = {}  # by template

    def of(self, model: Any) -> Optional[torch.Tensor]:
        """
        What the text prompts of the active adapter depend on: the features (C, D) of the C classes, or their numbers
        (C,) if each class has prompts of its own; None if they depend on no class.

        Raises:
            ValueError: if the adapter has prompts of other classes.
        """
        layer = layer_of(model)
        if layer is not None and layer.num_class_contexts:
            return self._numbers(model, layer.num_class_contexts)
        if layer is None or not layer.text_depends_on_class:
            return None
        config = active_config(model)
        assert config is not None, "an adapter is active, because its texts depend on the class"
        template = config.condition_template
        kept = self._kept.setdefault(template, Kept())
        constant = kept.constant
        if torch.compiler.is_compiling() and constant is not None and constant.device == part(model, "device"):
            return constant  # in one graph; whether a weight was loaded since cannot be seen there
        return self._encode(model, layer, template, kept)

    def forget(self) -> None:
        """Clear the cache: the next call encodes the classes again."""
        self._kept = {}

    def _numbers(self, model: Any, expected: int) -> torch.Tensor:
        names, config = list(self._class_names), active_config(model)
        trained = config and config.class_names
        if len(names) != expected or (trained and trained != names):
            found = f"{len(names)} classes" if len(names) != expected else "others, or in another order"
            raise ValueError(
                f"The adapter has text prompts of its own for each of {expected} classes, but the classifier has "
                f"{found}. Give the class names that it was trained on, in the same order."
            )
        return torch.arange(expected, device=part(model, "device"))

    @torch.compiler.disable
    def _encode(self, model: Any, layer: MuDPTLayer, template: str, kept: Kept[torch.Tensor]) -> torch.Tensor:
        texts = ClassTexts.given(template).of(self._class_names)

        def features() -> torch.Tensor:
            bank = text_bank(model, self._tokenizer, texts, class_batch_size=self._class_batch_size)
            return normalize(bank, dim=-1)  # (C, D)

        # in the precision of the weights, so that one bank serves inside and outside of autocast
        plain = torch.autocast(part(model, "device").type, torch.bfloat16, enabled=False)
        with layer.without_prompts(), plain:
            state_now = partial(text_state, model, below_prompts=True)
            return kept.get(state_now(), state_now, features)
