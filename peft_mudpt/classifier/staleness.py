"""Detects whether cached text features are stale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Optional

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..layer import layer_of
from ..towers.base import part
from ..towers.registry import family_of
from .encoding import has_memory


@dataclass(frozen=True)
class TextState:
    """
    A snapshot of everything that the text features of a model depend on. It holds references to the tensors, because
    a new tensor at the address of a freed one would look unchanged.
    """

    tensors: list[torch.Tensor]
    versions: list  # per tensor: how often it was written to, and its address
    switches: list  # modes, and which adapters and copies in `modules_to_save` are active
    marks: list  # objects that a switch of adapters replaces: unlike `switches`, they show one there and back
    requires_grad: bool

    def equals(self, other: TextState) -> bool:
        """Whether nothing changed between the two snapshots."""
        return (
            len(self.tensors) == len(other.tensors)
            and all(mine is its for mine, its in zip(self.tensors, other.tensors))
            and self.versions == other.versions
            and self.switches == other.switches
        )

    def lasted_until(self, later: Optional[TextState]) -> bool:
        """Whether nothing changed in between, not even there and back."""
        return (
            later is not None and self.equals(later) and all(mine is its for mine, its in zip(self.marks, later.marks))
        )


def text_state(model: torch.nn.Module, below_prompts: bool = False) -> Optional[TextState]:
    """
    Take a snapshot of everything that the text features of a CLIP, plain or with an adapter, depend on. It is None if
    a tensor has no memory whose changes could be seen (see `has_memory`).

    Args:
        model: the CLIP.
        below_prompts: True to leave out the parameters of the MuDPT adapter, on which the states below its first layer
            do not depend.
    """
    parts, layer = family_of(model).text.feature_parts(model), layer_of(model)
    tower = parts[0]
    start = None if layer is None else layer.start("text")
    if layer is not None and layer.num_tokens("text") and not below_prompts:
        parts.append(layer)
    tensors: list[torch.Tensor] = []
    marks = [] if layer is None else [layer.last_switch]
    switches = [tower.training, part(tower, "config._attn_implementation"), *_autocast(model), start]
    for module in (module for root in parts for module in root.modules()):
        tensors += [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            switches.append((tuple(module.active_adapters), module.disable_adapters))
            marks.append(module.active_adapter)
            # LoRA's merging writes through `.data`, and its scale is a plain number or a tensor
            scaling = getattr(module, "scaling", {})
            tensors += [scale for scale in scaling.values() if isinstance(scale, torch.Tensor)]
            numbers = {name: scale for name, scale in scaling.items() if not isinstance(scale, torch.Tensor)}
            switches.append((tuple(getattr(module, "merged_adapters", ())), numbers))
    if not all(map(has_memory, tensors)):
        return None
    requires_grad, steps = any(t.requires_grad for t in tensors), _optimizer_steps()
    switches += steps if requires_grad else []
    # an inference tensor counts no writes, so it is always taken for changed
    versions = [(object() if t.is_inference() else t._version, t.data_ptr()) for t in tensors]
    return TextState(tensors, versions, switches, marks, requires_grad)


class Kept:
    """Tensors that are computed from texts once, and again when they are stale."""

    def __init__(self) -> None:
        self._known: Optional[tuple[TextState, list[torch.Tensor]]] = None

    @property
    def constants(self) -> Optional[list[torch.Tensor]]:
        """The tensors that were computed last; None if there are none, or if they depend on what is trained."""
        return None if self._known is None or self._known[0].requires_grad else self._known[1]

    def get(
        self, state_now: Callable[[], Optional[TextState]], compute: Callable[[], list[torch.Tensor]]
    ) -> list[torch.Tensor]:
        """
        Return the tensors, without a gradient. The caller must not write to them.

        Args:
            state_now: function that takes a snapshot of what they depend on. None: nothing can be kept.
            compute: function that computes the tensors.
        """
        known, state = self._known, state_now()
        if known is None or state is None or not known[0].equals(state):
            with torch.inference_mode(False), torch.no_grad():  # so that they can be used outside of it, too
                tensors = compute()
            if state is None or not (all(map(has_memory, tensors)) and state.lasted_until(state_now())):
                return tensors
            self._known = known = state, tensors
        return known[1]

    def forget(self) -> None:
        """Clear the cache."""
        self._known = None


@cache
def _optimizer_steps() -> list[int]:
    """A list of one number: the optimizer steps so far. From now on, a step increases `Tensor._version`."""
    steps = [0]

    def count(optimizer: torch.optim.Optimizer, *_) -> None:
        steps[0] += 1
        # Fused optimizers do not increase the version, and what they train may be frozen when it is next looked at.
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch.autograd.graph.increment_version(trained)

    register_optimizer_step_post_hook(count)
    return steps


def _autocast(model: torch.nn.Module) -> tuple:
    kind = part(model, "device").type
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
