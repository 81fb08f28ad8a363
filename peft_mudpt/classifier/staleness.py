"""What text features depend on, so that nobody takes old ones for new."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..layer import LAYER_NAME
from .encoding import num_text_tokens


@dataclass(frozen=True)
class TextState:
    """
    What the text features of a model depend on, at one moment. It keeps the tensors, so that none is mistaken for
    another that took its place.
    """

    tensors: list[torch.Tensor]
    versions: list  # by tensor: how often it was written to, and where its numbers lie
    switches: list  # of the modules that can be switched: adapters, and copies in `modules_to_save`
    requires_grad: bool

    def equals(self, other: TextState) -> bool:
        """Whether nothing has changed between the two."""
        return (
            len(self.tensors) == len(other.tensors)
            and all(mine is its for mine, its in zip(self.tensors, other.tensors))
            and self.versions == other.versions
            and self.switches == other.switches
        )


def text_state(model: torch.nn.Module) -> TextState:
    """The state of all that the text features of a CLIP, plain or with an adapter, depend on."""
    parts = [model.text_model]
    if hasattr(model, "text_projection"):
        parts.append(model.text_projection)
    if num_text_tokens(model):
        parts.append(getattr(model, LAYER_NAME))
    attention = model.text_model.config._attn_implementation
    tensors, switches = [], [model.text_model.training, attention, *_autocast(model), *_optimizer_steps()]
    for module in (module for part in parts for module in part.modules()):
        tensors += [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            switches.append((tuple(module.active_adapters), module.disable_adapters))
            # LoRA's: merging writes through `.data`, and the scale is a plain number or a tensor of its own
            scaling = getattr(module, "scaling", {})
            tensors += [scale for scale in scaling.values() if isinstance(scale, torch.Tensor)]
            numbers = {name: scale for name, scale in scaling.items() if not isinstance(scale, torch.Tensor)}
            switches.append((tuple(getattr(module, "merged_adapters", ())), numbers))
    # an inference tensor does not say when it is written to: it counts as always written to
    versions = [(object() if t.is_inference() else t._version, t.data_ptr()) for t in tensors]
    return TextState(tensors, versions, switches, any(t.requires_grad for t in tensors))


@cache
def _optimizer_steps() -> list[int]:
    """How many steps all optimizers of the process have made since this was first asked: fused ones leave no trace."""
    steps = [0]

    def count(*_) -> None:
        steps[0] += 1

    register_optimizer_step_post_hook(count)
    return steps


def _autocast(model: torch.nn.Module) -> tuple:
    kind = model.device.type
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
