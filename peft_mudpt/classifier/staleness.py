"""Detects whether cached text features are stale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, Optional, TypeVar, Union

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakTensorKeyDictionary

from ..layer import layer_of
from ..towers.base import part
from ..towers.registry import family_of
from .encoding import has_memory


Result = TypeVar("Result", bound=Union[torch.Tensor, list[torch.Tensor]])


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


def trains_text(model: torch.nn.Module) -> bool:
    """Whether a parameter that the text features of a CLIP depend on is being trained. It is known at once."""
    return any(parameter.requires_grad for root in _parts(model) for parameter in root.parameters())


def text_state(
    model: torch.nn.Module, below_prompts: bool = False, without: Sequence[torch.Tensor] = ()
) -> Optional[TextState]:
    """
    Take a snapshot of everything that the text features of a CLIP, plain or with an adapter, depend on. It is None if
    a tensor has no memory whose changes could be seen (see `has_memory`).

    Args:
        model: the CLIP.
        below_prompts: True to leave out the parameters of the MuDPT adapter, on which the states below its first layer
            do not depend.
        without: parameters of the adapter to leave out, because the features in question do not depend on them.
    """
    tower, layer = family_of(model).text_tower(model), layer_of(model)
    starts = [] if layer is None else [layer.start("text"), layer.num_tokens("text")]
    tensors: list[torch.Tensor] = []
    marks = [] if layer is None else [layer.last_switch]
    switches = [tower.training, part(tower, "config._attn_implementation"), *_autocast(model), *starts]
    steps = _optimizer_steps()
    if not below_prompts and not without:
        switches.append(steps.total)
    for module in (module for root in _parts(model, below_prompts) for module in root.modules()):
        tensors += [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            switches.append((tuple(module.active_adapters), module.disable_adapters))
            marks.append(module.active_adapter)
            # LoRA's merging writes through `.data`, and its scale is a plain number or a tensor
            scaling = getattr(module, "scaling", {})
            tensors += [scale for scale in scaling.values() if isinstance(scale, torch.Tensor)]
            numbers = {name: scale for name, scale in scaling.items() if not isinstance(scale, torch.Tensor)}
            switches.append((tuple(getattr(module, "merged_adapters", ())), numbers))
    left_out = set(map(id, without))
    tensors = [tensor for tensor in tensors if id(tensor) not in left_out]
    if not all(map(has_memory, tensors)):
        return None
    # an inference tensor counts no writes, so it is always taken for changed
    versions = [
        (object() if t.is_inference() else t._version, t.data_ptr(), steps.by_tensor.get(t, 0)) for t in tensors
    ]
    return TextState(tensors, versions, switches, marks, any(t.requires_grad for t in tensors))


class Kept(Generic[Result]):
    """What is computed from texts, one tensor or several, once, and again when it is stale."""

    def __init__(self) -> None:
        self._known: Optional[tuple[TextState, object, Result]] = None

    @property
    def constant(self) -> Optional[Result]:
        """What was computed last, if nothing that it depends on was being trained; otherwise None."""
        return None if self._known is None or self._known[0].requires_grad else self._known[2]

    def get(
        self,
        state: Optional[TextState],
        state_now: Callable[[], Optional[TextState]],
        compute: Callable[[], Result],
        source: object = None,
    ) -> Result:
        """
        Return what `compute` gives, without a gradient.

        Args:
            state: the state of the model; None if it cannot be told, so that nothing is kept.
            state_now: function that takes the state again, after the computation.
            compute: the function.
            source: object from which it computes, beside the model.
        """
        known = self._known
        if known is not None and state is not None and known[1] is source and known[0].equals(state):
            return known[2]
        with torch.inference_mode(False), torch.no_grad():  # so that it can be used outside of it, too
            result = compute()
        tensors = [result] if isinstance(result, torch.Tensor) else result
        if state is not None and all(map(has_memory, tensors)) and state.lasted_until(state_now()):
            self._known = state, source, result
        return result

    def forget(self) -> None:
        """Clear the cache."""
        self._known = None


def _parts(model: torch.nn.Module, below_prompts: bool = False) -> list[torch.nn.Module]:
    """The modules that text features depend on; first the adapters, if they have text prompts."""
    layer = layer_of(model)
    adapters = [layer] if layer is not None and layer.num_tokens("text") and not below_prompts else []
    return [*adapters, *family_of(model).text.feature_parts(model)]


class _OptimizerSteps:
    """
    Counts optimizer steps, because fused optimizers do not increase `Tensor._version`. `by_tensor` has the number of
    the step that wrote to a tensor last.
    """

    def __init__(self) -> None:
        self.total = 0
        self.by_tensor = WeakTensorKeyDictionary()

    def count(self, optimizer: torch.optim.Optimizer, *_) -> None:
        self.total += 1
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                self.by_tensor[tensor] = self.total


@cache
def _optimizer_steps() -> _OptimizerSteps:
    steps = _OptimizerSteps()
    register_optimizer_step_post_hook(steps.count)
    return steps


def _autocast(model: torch.nn.Module) -> tuple:
    kind = part(model, "device").type
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
