"""Where prompts enter a tower and leave it again: the forward hooks, for each supported model family.

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
from transformers import CLIPTextModel, CLIPVisionModel

from .config import Modality, TowerShape


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
    relate all tokens, show them. (A tower's `embeddings` or `encoder` called by itself shows them too.)
    """

    modality: ClassVar[Modality]

    def __init__(self, source: PromptSource):
        self.source = source

    @staticmethod
    def split(hidden: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
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
        kwargs = dict(kwargs)
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


class PromptedCLIPVision(PromptedTower):
    """[CLS, patches, prompts]. The prompts have no position; they pass `pre_layrnorm` with the other tokens."""

    modality = "vision"

    @staticmethod
    def split(hidden: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        length = hidden.shape[1]
        return hidden[:, : length - n], hidden[:, length:]


class PromptedCLIPText(PromptedTower):
    """
    [BOS, prompts, words, EOS, padding]. The prompts stand at positions 1..n and have their position embeddings, so the
    words move n positions on.

    The token ids stay as the user passed them: the prompts are inserted after the embedding and are gone again before
    the tower looks for EOS, so both of CLIP's pooling rules hold, and no placeholder token is needed.
    """

    modality = "text"

    @staticmethod
    def split(hidden: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return hidden[:, :1], hidden[:, 1 + n :]

    def input_prompts(self, embeddings: nn.Module) -> Optional[torch.Tensor]:
        prompts = super().input_prompts(embeddings)
        if prompts is None:
            return None
        # through the module, not its weight: offloading loads a weight only while its module runs
        positions = torch.arange(1, 1 + len(prompts), device=embeddings.position_ids.device)
        positioned = embeddings.position_embedding(positions)  # (n, d)
        return prompts.to(positioned.device) + positioned

    def prepare(self, tower: nn.Module, args: tuple, kwargs: dict) -> Optional[tuple[tuple, dict]]:
        """
        Move the positions and the attention mask of the words n tokens on. A mask of four axes is one of a caller who
        has laid the sequence out, prompts included (see `packing`): then positions and mask stay as they are.
        """
        super().prepare(tower, args, kwargs)
        n = self.source.num_tokens(self.modality)
        names = ("input_ids", "attention_mask", "position_ids")  # as the tower takes them by position
        kwargs = {**dict(zip(names, args)), **kwargs}
        input_ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if not n or input_ids is None:
            return None
        if mask is not None and mask.dim() == 4:
            self._check_layout(input_ids, mask, kwargs.get("position_ids"), n)
            return None
        if mask is not None:
            if mask.dim() != 2:
                raise ValueError(
                    f"attention_mask has shape {tuple(mask.shape)}; with text prompts it must be (batch, length) as "
                    "the tokenizer makes it, since the prompts' columns are added to it, or a mask of four axes that "
                    "has them already."
                )
            kwargs["attention_mask"] = torch.cat([mask[:, :1], mask.new_ones(len(mask), n), mask[:, 1:]], dim=1)
        kwargs["position_ids"] = self._moved_positions(tower, input_ids, kwargs.get("position_ids"), n)
        return args[len(names) :], kwargs

    @staticmethod
    def _check_layout(
        input_ids: torch.Tensor, mask: torch.Tensor, position_ids: Optional[torch.Tensor], n: int
    ) -> None:
        length = n + input_ids.shape[-1]
        if tuple(mask.shape[-2:]) != (length, length) or position_ids is None:
            given = "no position_ids" if position_ids is None else "position_ids"
            raise ValueError(
                f"attention_mask has shape {tuple(mask.shape)}, beside {given}. With four axes it must say which of "
                f"all {length} tokens sees which, the {n} prompts behind BOS among them: (batch, 1, {length}, "
                f"{length}), and position_ids must say where the {length - n} others stand."
            )

    @classmethod
    def _moved_positions(
        cls, tower: nn.Module, input_ids: torch.Tensor, position_ids: Optional[torch.Tensor], n: int
    ) -> torch.Tensor:
        """Positions (1 or B, L) of the tokens when n prompts stand after BOS."""
        ids = input_ids.view(-1, input_ids.shape[-1])  # (B, L)
        table, length = _num_positions(tower), ids.shape[1]
        explicit = position_ids is not None
        if not explicit:
            position_ids = torch.arange(length, device=ids.device)[None]  # (1, L)
        elif position_ids.dim() != 2 or position_ids.shape[1] != length:
            raise ValueError(
                f"position_ids has shape {tuple(position_ids.shape)}, expected (batch, {length}) like input_ids."
            )
        moved = torch.cat([position_ids[:, :1], position_ids[:, 1:] + n], dim=1)
        if not explicit and length + n <= table:
            return moved
        # Causal attention lets nothing that counts see what stands behind EOS: there, any position does.
        behind_eos = cls._behind_eos(tower, ids)
        out_of_order = (position_ids[:, :1] != 0) | (position_ids[:, 1:] < 1).any(dim=1, keepdim=True)  # (1 or B, 1)
        if not torch.compiler.is_compiling():  # values cannot be read there; the position table itself then refuses
            if out_of_order.any():
                raise ValueError(
                    "position_ids must be 0 for the first token (BOS) and at least 1 for the others: the prompts "
                    f"stand at positions 1 to {n} and the words after them. Leave position_ids out, or disable the "
                    "adapter."
                )
            needed = moved.masked_fill(behind_eos, 0).amax().item() + 1
            if needed > table:
                raise ValueError(
                    f"The text needs {needed} positions with its {n} prompt tokens, but the text tower has {table}: "
                    f"{table - n} tokens are left for BOS, words and EOS. Shorten the text, or tokenize it with "
                    f"truncation=True, max_length={table - n}."
                )
        return torch.where(behind_eos, moved.clamp(max=table - 1), moved).masked_fill(out_of_order, table)

    @staticmethod
    def _behind_eos(tower: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        """Which tokens (B, L) stand behind the first EOS of their row; none where there is no EOS."""
        if tower.eos_token_id == 2:  # CLIP's older rule: EOS is the largest id
            is_eos = ids == ids.amax(dim=1, keepdim=True)
        else:
            is_eos = ids == tower.eos_token_id
        return (is_eos.cumsum(dim=1) - is_eos.long()) > 0


# One entry per supported model family and tower.
PROMPTED_TOWERS: dict[type[nn.Module], type[PromptedTower]] = {
    CLIPTextModel: PromptedCLIPText,
    CLIPVisionModel: PromptedCLIPVision,
}


def prompted_tower(module: nn.Module) -> Optional[type[PromptedTower]]:
    """How prompts enter this module; None if it is no supported tower."""
    return next((prompted for tower, prompted in PROMPTED_TOWERS.items() if isinstance(module, tower)), None)


def find_towers(model: nn.Module) -> dict[Modality, str]:
    """
    The names of the supported towers in `model`, by modality; "" is the model itself.

    Raises:
        ValueError: if there is none, or more than one of a kind.
    """
    found: dict[Modality, str] = {}
    for name, module in model.named_modules():
        prompted = prompted_tower(module)
        if prompted is None:
            continue
        if prompted.modality in found:
            raise ValueError(
                f"{type(model).__name__} holds several {prompted.modality} towers ({found[prompted.modality]!r} and "
                f"{name!r}); adapt the CLIP models in it one by one."
            )
        found[prompted.modality] = name
    if not found:
        supported = ", ".join(cls.__name__ for cls in PROMPTED_TOWERS)
        raise ValueError(
            f"{type(model).__name__} is no CLIP: MuDPT needs a model with one of the towers {supported}, for example "
            "transformers.CLIPModel. The model was left as it is."
        )
    return found


def _num_positions(text_tower: nn.Module) -> int:
    # of the weight, since LoRA may stand in the place of the module
    return text_tower.embeddings.position_embedding.weight.shape[0]


def tower_shape(tower: nn.Module) -> TowerShape:
    """What an adapter depends on, of one tower."""
    positions = _num_positions(tower) if prompted_tower(tower).modality == "text" else None
    return TowerShape(tower.config.hidden_size, tower.config.num_hidden_layers, positions)
