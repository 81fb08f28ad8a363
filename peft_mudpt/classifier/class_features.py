"""Encodes the texts of classes, and computes nothing again that is still valid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Optional

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase

from ..layer import MuDPTLayer, layer_of
from ..towers.base import part
from ..towers.registry import family_of
from .bank import in_eval_mode, mean_of_texts
from .condition import ClassCondition
from .domains import LearnedDomains
from .encoding import encode_layout, encode_per_condition, has_memory, lower_states
from .layout import LayoutKind, groups_kept, lay_out_classes, layout_kind
from .packing import PackedClasses
from .staleness import Kept, text_state, trains_text
from .texts import text_owners, tokenize_texts


class ClassFeatures:
    """
    The text features of classes.

    Args:
        model: the CLIP, plain or with an adapter, that encodes them first.
        tokenizer: tokenizer of the texts.
        class_names: names of the C classes.
        texts: the texts of each class, T in all.
        is_mean: whether classes may have several texts, so that the features of a class are the mean of those of its
            texts, normalized again.
        class_batch_size: number of texts that are encoded at a time; None chooses it by the size of the model.

    Attributes:
        tokens: the tokenized texts, `input_ids` (T, L) among them.

    Raises:
        ValueError: if a text is too long for the text tower, or if the active adapter has text prompts of other
            classes.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        class_names: Sequence[str],
        texts: Sequence[Sequence[str]],
        is_mean: bool,
        class_batch_size: Optional[int],
    ):
        family = family_of(model)
        self._owners = text_owners(texts, class_names)
        self._texts_per_class = list(map(len, texts))
        self._is_mean = is_mean
        self.class_batch_size = class_batch_size
        self._condition = ClassCondition(tokenizer, class_names, class_batch_size)
        layer = layer_of(model)
        if layer is not None and layer.num_class_contexts:
            self._condition.of(model)  # refuses other classes
        self.tokens = tokenize_texts(tokenizer, texts, family.text.pad_multiple(family.text_tower(model)))
        self._layouts: dict[LayoutKind, list[PackedClasses]] = {}
        self._layout(model)  # refuses a text that does not fit
        self._kept: Kept[torch.Tensor] = Kept()
        self._kept_lower: Kept[list[torch.Tensor]] = Kept()
        self._learned_domains = LearnedDomains()

    def of_classes(self, model: Any) -> torch.Tensor:
        """The features (C, D) of the classes, each with L2 norm 1, where they depend on the texts alone."""
        return self._cached(model, partial(self.encode, model))

    def of_domains(self, model: Any, layer: MuDPTLayer) -> torch.Tensor:
        """The features (K, C, D) of the classes in the K domains of the active adapter, each with L2 norm 1."""
        encode = partial(self.encode, model)
        of_learned = self._learned_domains.features(model, layer, encode)
        if of_learned is not None:
            return of_learned
        domains = torch.arange(layer.num_domains, device=part(model, "device"))
        return self._cached(model, partial(encode, domains))

    def encode(self, model: Any, conditions: Optional[torch.Tensor] = None) -> torch.Tensor:
        """The features (C, D) of the classes; (B, C, D), those under each of B conditions, if some are given."""
        condition = self._condition.of(model)  # None, or (C, D)
        if condition is not None and self._is_mean:
            numbers = torch.tensor(self._texts_per_class, device=condition.device)
            condition = condition.repeat_interleave(numbers, dim=0)  # (T, D)
        groups, lower = self._layout(model), self._lower_states(model)
        if conditions is None:
            kept = groups_kept(model, self.class_batch_size)
            features = encode_layout(model, groups, lower, condition, kept)  # (T, D)
        else:
            features = encode_per_condition(model, groups, conditions, lower, self.class_batch_size)  # (B, T, D)
        features = normalize(features, dim=-1)
        if not self._is_mean:
            return features
        return normalize(mean_of_texts(features, self._texts_per_class), dim=-1)  # (C, D) or (B, C, D)

    def forget(self) -> None:
        """Clear the cache: the next call encodes the classes again."""
        for kept in (self._kept, self._kept_lower, self._condition, self._learned_domains):
            kept.forget()

    def _cached(self, model: Any, encode: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What `encode` gives, or gave when nothing that it depends on was different."""
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and trains_text(model)):
            return encode()
        state = text_state(model)
        if state is None or (torch.is_grad_enabled() and state.requires_grad):
            return encode()
        # a copy, because the caller may write to it
        return self._kept.get(state, partial(text_state, model), partial(in_eval_mode, model, encode)).clone()

    def _lower_states(self, model: Any) -> Optional[list[torch.Tensor]]:
        """The states of the texts below the first layer with prompts, computed once; None: encode the texts whole."""
        layer = layer_of(model)
        if layer is None or not layer.start("text") or torch.compiler.is_compiling():
            return None
        state_now, groups = partial(text_state, model, below_prompts=True), self._layout(model)
        state = state_now()
        if state is None or state.requires_grad:
            return None
        compute = partial(in_eval_mode, model, partial(lower_states, model, groups))
        return self._kept_lower.get(state, state_now, compute, groups)

    def _layout(self, model: Any) -> list[PackedClasses]:
        kind, device = layout_kind(model), part(model, "device")
        known = groups = self._layouts.get(kind)
        if groups is None:
            groups = lay_out_classes(model, self.tokens, self.class_batch_size, self._owners, kind)
        if groups[0].input_ids.device != device:
            groups = [group.to(device) for group in groups]
        if groups is not known and has_memory(groups[0].input_ids):
            self._layouts[kind] = groups
        return groups
