"""The text features of an adapter's domains, of which training often changes only one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Optional, cast

import torch

from ..layer import MuDPTLayer
from ..prompts.prompts import MultiModalPrompts
from ..towers.base import part
from .bank import in_eval_mode
from .staleness import Kept, text_state


class LearnedDomains:
    """
    Encodes only the domains whose contexts are learned. The features of the others stay the same while a client of a
    federation trains, so that they are computed once.
    """

    def __init__(self) -> None:
        self._kept: Kept[torch.Tensor] = Kept()

    def features(
        self, model: Any, layer: MuDPTLayer, encode: Callable[[torch.Tensor], torch.Tensor]
    ) -> Optional[torch.Tensor]:
        """
        The features (K, C, D) of C classes in K domains, with a gradient for the learned ones.

        Args:
            model: the model with the adapter.
            layer: its layer.
            encode: maps the numbers (k,) of k domains to their features (k, C, D).

        Returns:
            The features; None if all domains are learned, or none, or if something else is that they depend on.
        """
        prompts = cast(MultiModalPrompts, layer.active_prompts())
        assert prompts.domain_contexts is not None and prompts.vision_prompts is not None, "the adapter has domains"
        contexts = list(prompts.domain_contexts.contexts)
        learned = [context.requires_grad for context in contexts]
        if all(learned) or not any(learned) or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        apart = [prompts.vision_prompts, *(context for context in contexts if context.requires_grad)]
        state_now = partial(text_state, model, without=apart)
        state = state_now()
        if state is None or state.requires_grad:
            return None
        numbers = torch.arange(len(contexts), device=part(model, "device"))
        mask = torch.tensor(learned, device=numbers.device)
        own, others = numbers[mask], numbers[~mask]
        compute = partial(in_eval_mode, model, partial(encode, others))
        features = torch.cat([encode(own), self._kept.get(state, state_now, compute)])
        return features[torch.cat([own, others]).argsort()]  # in the order of the domains

    def forget(self) -> None:
        """Clear the cache: the next call encodes all domains again."""
        self._kept.forget()
