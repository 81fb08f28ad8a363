"""The life of the prompts in one tower: the forward hooks that every model family shares.

The hooks are registered once and hold no tensor. They ask the `PromptSource` afresh in each forward, so that switching
an adapter off or over is a flag they read (which `torch.compile` follows). The prompts of the deep layers are made
once, all together, and travel as an argument from the encoder to its layers: with the call, which threads, exceptions
and gradient checkpointing cannot mix up.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Optional, Protocol

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..config import Modality


NO_ADAPTER_PER_SAMPLE = (
    "adapter_names= (an adapter per sample) is not supported by MuDPT: all texts and images of a batch share one "
    "sequence layout. Activate one adapter with set_adapter(name), and run the samples of each adapter together."
)


DEEP_PROMPTS = "mudpt_deep_prompts"  # the argument from the encoder to its layers


class PromptSource(Protocol):
    """Whom the hooks ask."""

    def num_tokens(self, modality: Modality) -> int:
        """Number of prompt tokens in this tower now; 0 if it runs without prompts."""

    def prompts(self, modality: Modality, start: int, stop: Optional[int] = None) -> Optional[torch.Tensor]:
        """The prompts (k, n, d) of the layers from `start` to before `stop`, 0 the input; None if these have none."""


class PromptedTower:
    """
    The life of the prompts in one tower: inserted at the embeddings, overwritten before each deep layer, removed after
    the last. What the base model returns therefore has the shapes it has without prompts; only `attentions`, which
    relate all tokens, show them. (A tower's `embeddings` or `encoder` called by itself shows them too; and a text
    tower that gives up padding for them returns no states of it.)
    """

    modality: ClassVar[Modality]

    def __init__(self, source: PromptSource):
        self.source = source

    @classmethod
    def split(cls, hidden: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens before and after the n prompt tokens of `hidden` (B, L, d)."""
        raise NotImplementedError

    @staticmethod
    def hooked_modules(tower: nn.Module) -> list[nn.Module]:
        """The modules that must stay in place for the prompts to reach the tower."""
        return [tower, tower.embeddings, tower.encoder, *tower.encoder.layers]

    def attach(self, tower: nn.Module) -> list[RemovableHandle]:
        """Register the hooks on one tower."""
        return [
            tower.register_forward_pre_hook(self.prepare, with_kwargs=True),
            tower.embeddings.register_forward_hook(self.insert),
            tower.encoder.register_forward_pre_hook(self.hand_down, with_kwargs=True),
            *(
                layer.register_forward_pre_hook(partial(self.overwrite, index), with_kwargs=True)
                for index, layer in enumerate(tower.encoder.layers)
            ),
            tower.encoder.register_forward_hook(self.remove),
            tower.register_forward_hook(self.remove_from_hidden_states),
        ]

    def prepare(self, tower: nn.Module, args: tuple, kwargs: dict) -> Optional[tuple[tuple, dict]]:
        """Look at the tower's arguments, and change what the prompts make another."""
        if self.source.num_tokens(self.modality) and kwargs.get("adapter_names") is not None:
            raise ValueError(NO_ADAPTER_PER_SAMPLE)
        return None

    def input_prompts(self, embeddings: nn.Module) -> Optional[torch.Tensor]:
        """The prompts (n, d) as they stand beside the embedded tokens."""
        prompts = self.source.prompts(self.modality, 0, 1)  # (1, n, d)
        return None if prompts is None else prompts[0]

    def insert(self, embeddings: nn.Module, args: tuple, hidden: torch.Tensor) -> Optional[torch.Tensor]:
        prompts = self.input_prompts(embeddings)
        return None if prompts is None else self._replace(hidden, 0, prompts)  # (B, L, d) -> (B, L + n, d)

    def hand_down(self, encoder: nn.Module, args: tuple, kwargs: dict) -> Optional[tuple[tuple, dict]]:
        if encoder.training and any(layer.gradient_checkpointing for layer in encoder.layers):
            return None  # each layer makes its own, again in the backward pass: the reentrant kind shares no graph
        prompts = self.source.prompts(self.modality, 1)
        return None if prompts is None else (args, {**kwargs, DEEP_PROMPTS: prompts})

    def overwrite(self, index: int, layer: nn.Module, args: tuple, kwargs: dict) -> Optional[tuple[tuple, dict]]:
        prompts = kwargs.pop(DEEP_PROMPTS, None)  # (k, n, d), of the layers 1 to k; no layer knows the argument
        if prompts is not None:
            own = prompts[index - 1 : index] if index else prompts[:0]
        else:
            own = self.source.prompts(self.modality, index, index + 1) if index else None
        if own is not None and len(own):
            hidden, *rest = args
            args = self._replace(hidden, own.shape[1], own[0]), *rest  # (B, L + n, d), unchanged shape
        return args, kwargs

    def remove(self, encoder: nn.Module, args: tuple, output):
        n = self.source.num_tokens(self.modality)
        if n:
            output.last_hidden_state = self._replace(output.last_hidden_state, n)  # (B, L + n, d) -> (B, L, d)
        return output

    def remove_from_hidden_states(self, tower: nn.Module, args: tuple, output):
        n = self.source.num_tokens(self.modality)
        if not n:
            return None

        def shortened(states):  # hidden states are (B, L + n, d); attentions, which have a fourth axis, stay
            if isinstance(states, tuple) and any(state is not None and state.dim() == 3 for state in states):
                return tuple(None if state is None else self._replace(state, n) for state in states)
            return states

        if isinstance(output, tuple):  # return_dict=False
            return tuple(map(shortened, output))
        if output.hidden_states is not None:
            output.hidden_states = shortened(output.hidden_states)
        return output

    def _replace(self, hidden: torch.Tensor, n: int, prompts: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Put `prompts` in the place of the n prompt tokens; None takes them out."""
        before, after = self.split(hidden, n)
        parts = [before, after]
        if prompts is not None:
            parts.insert(1, prompts.to(hidden).expand(hidden.shape[0], -1, -1))  # (n, d) -> (B, n, d)
        parts = [part for part in parts if part.shape[1]]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
