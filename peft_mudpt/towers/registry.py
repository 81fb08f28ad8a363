"""Where prompts stand in the towers of each model family. A new family is an entry of the table."""

from __future__ import annotations

from typing import ClassVar, Optional

import torch
from torch import nn
from transformers import (
    CLIPTextModel,
    CLIPVisionModel,
    MetaClip2TextModel,
    MetaClip2VisionModel,
    SiglipTextModel,
    SiglipVisionModel,
)

from ..config import Modality, TowerShape
from .base import PromptedTower


class PromptedVision(PromptedTower):
    """
    [CLS, patches, prompts], or [patches, prompts] where there is no CLS. The prompts have no position; they pass
    `pre_layrnorm`, where there is one, with the other tokens. A head that pools over tokens does not see them.
    """

    modality = "vision"

    @classmethod
    def split(cls, hidden: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        length = hidden.shape[1]
        return hidden[:, : length - n], hidden[:, length:]


class PromptedText(PromptedTower):
    """
    Prompts before the words, with the position embeddings of where they stand, so the words move n positions on.

    No token id is put in: the prompts are inserted after the embedding and are gone again before the tower pools, so
    every family's rule for pooling holds, and no placeholder token is needed.

    Attributes:
        tokens_before: how many tokens stand before the prompts (BOS, or none).
        is_causal: whether a token sees only those before it, so that classes can share a row (see `packing`).
    """

    modality = "text"
    tokens_before: ClassVar[int]
    is_causal: ClassVar[bool]

    @classmethod
    def split(cls, hidden: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return hidden[:, : cls.tokens_before], hidden[:, cls.tokens_before + n :]

    def input_prompts(self, embeddings: nn.Module) -> Optional[torch.Tensor]:
        prompts = super().input_prompts(embeddings)
        if prompts is None:
            return None
        start = self.tokens_before
        # through the module, not its weight: offloading loads a weight only while its module runs
        positions = torch.arange(start, start + len(prompts), device=embeddings.position_ids.device)
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
            before, after = mask.tensor_split([self.tokens_before], dim=1)
            kwargs["attention_mask"] = torch.cat([before, mask.new_ones(len(mask), n), after], dim=1)  # (B, n + L)
        position_ids, length = kwargs.get("position_ids"), input_ids.shape[-1]
        if position_ids is not None and (position_ids.dim() != 2 or position_ids.shape[1] != length):
            raise ValueError(
                f"position_ids has shape {tuple(position_ids.shape)}, expected (batch, {length}) like input_ids."
            )
        return args[len(names) :], self._make_room(tower, kwargs, n)

    def _make_room(self, tower: nn.Module, kwargs: dict, n: int) -> dict:
        """The tower's arguments with positions that leave room for n prompts; the mask has them already."""
        raise NotImplementedError

    @staticmethod
    def _check_layout(
        input_ids: torch.Tensor, mask: torch.Tensor, position_ids: Optional[torch.Tensor], n: int
    ) -> None:
        length = n + input_ids.shape[-1]
        if tuple(mask.shape[-2:]) != (length, length) or position_ids is None:
            given = "no position_ids" if position_ids is None else "position_ids"
            raise ValueError(
                f"attention_mask has shape {tuple(mask.shape)}, beside {given}. With four axes it must say which of "
                f"all {length} tokens sees which, the {n} prompts among them: (batch, 1, {length}, {length}), and "
                f"position_ids must say where the {length - n} others stand."
            )


class PromptedCLIPText(PromptedText):
    """[BOS, prompts, words, EOS, padding], causal. The tower pools at EOS."""

    tokens_before = 1
    is_causal = True

    def _make_room(self, tower: nn.Module, kwargs: dict, n: int) -> dict:
        input_ids, position_ids = kwargs["input_ids"], kwargs.get("position_ids")
        ids = input_ids.view(-1, input_ids.shape[-1])  # (B, L)
        table, length = _num_positions(tower), ids.shape[1]
        explicit = position_ids is not None
        if not explicit:
            position_ids = torch.arange(length, device=ids.device)[None]  # (1, L)
        moved = torch.cat([position_ids[:, :1], position_ids[:, 1:] + n], dim=1)  # (1 or B, L)
        if not explicit and length + n <= table:
            return {**kwargs, "position_ids": moved}
        # Causal attention lets nothing that counts see what stands behind EOS: there, any position does.
        is_eos = self.is_eos(tower, ids)
        behind_eos = (is_eos.cumsum(dim=1) - is_eos.long()) > 0  # (B, L), nowhere without an EOS
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
        moved = torch.where(behind_eos, moved.clamp(max=table - 1), moved).masked_fill(out_of_order, table)
        return {**kwargs, "position_ids": moved}

    @classmethod
    def is_eos(cls, tower: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        """Which of the tokens (B, L) the tower takes for EOS."""
        if tower.eos_token_id == 2:  # CLIP's older rule: EOS is the largest id
            return ids == ids.amax(dim=1, keepdim=True)
        return ids == tower.eos_token_id


class PromptedMetaClip2Text(PromptedCLIPText):
    """As CLIP's, but EOS is the token of that id, also if the id is 2."""

    @classmethod
    def is_eos(cls, tower: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        return ids == tower.eos_token_id


class PromptedSiglipText(PromptedText):
    """
    [prompts, words, EOS, padding], every token seeing every other. The tower pools at the last token, so the sequence
    keeps its length of `padding="max_length"`: as many tokens of padding give way as there are prompts for which the
    position table has no room. Prompts then stand where words before the text would stand, and compute the same.
    """

    tokens_before = 0
    is_causal = False

    def _make_room(self, tower: nn.Module, kwargs: dict, n: int) -> dict:
        ids, position_ids = kwargs["input_ids"], kwargs.get("position_ids")  # (B, L)
        table, length = _num_positions(tower), ids.shape[-1]
        explicit = position_ids is not None
        if not explicit:
            position_ids = torch.arange(length, device=ids.device)[None]  # (1, L)
        if not explicit and length + n <= table:
            return {**kwargs, "position_ids": position_ids + n}
        kept = min(length, table - n)
        lengths = self.text_lengths(ids)  # (B,)
        moved = position_ids[:, :kept] + n
        if not torch.compiler.is_compiling():  # values cannot be read there; the position table itself then refuses
            if (lengths > kept).any():
                raise ValueError(
                    f"The text needs {lengths.amax().item() + n} positions with its {n} prompt tokens, but the text "
                    f"tower has {table}: {table - n} tokens are left for words, EOS and the first token of padding, "
                    f"which stands on the right. Shorten the text, or tokenize it with truncation=True, "
                    f"max_length={table - n}."
                )
            if moved.amin() < n or moved.amax() >= table:
                raise ValueError(
                    f"position_ids must lie between 0 and {table - 1 - n}: the {n} prompts stand at the first "
                    f"positions and the words after them. Leave position_ids out, or disable the adapter."
                )
        mask = kwargs.get("attention_mask")
        return {
            **kwargs,
            "input_ids": ids[..., :kept],
            "attention_mask": None if mask is None else mask[:, : n + kept],
            "position_ids": moved.masked_fill(lengths[..., None] > kept, table),
        }

    @staticmethod
    def text_lengths(ids: torch.Tensor) -> torch.Tensor:
        """
        Tokens (B,) of each text (B, L) that must stay. What a text ends in, over and over, is taken for padding, but
        for the first of it: some tokenizers pad with EOS.
        """
        places = torch.arange(1, 1 + ids.shape[-1], device=ids.device)  # (L,)
        return ((ids != ids[..., -1:]) * places).amax(dim=-1) + 1


# One entry per supported model family and tower.
PROMPTED_TOWERS: dict[type[nn.Module], type[PromptedTower]] = {
    CLIPTextModel: PromptedCLIPText,
    CLIPVisionModel: PromptedVision,
    MetaClip2TextModel: PromptedMetaClip2Text,
    MetaClip2VisionModel: PromptedVision,
    SiglipTextModel: PromptedSiglipText,
    SiglipVisionModel: PromptedVision,
}

# By `model_type`: what one would expect here, and why it is not.
REFUSED = {
    "siglip2": (
        "SigLIP 2 of flexible resolution (NaFlex) masks patches up to its head, which prompts do not follow; its "
        "checkpoints of fixed resolution load as transformers.SiglipModel, which is supported. "
    ),
}


def prompted_tower(module: nn.Module) -> Optional[type[PromptedTower]]:
    """How prompts enter this module; None if it is no supported tower."""
    for tower, prompted in PROMPTED_TOWERS.items():  # no next(..., None): torch 2.8 does not compile it
        if isinstance(module, tower):
            return prompted
    return None


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
        reason = REFUSED.get(getattr(getattr(model, "config", None), "model_type", None), "")
        raise ValueError(
            f"{type(model).__name__} is no CLIP that MuDPT knows: it needs a model with one of the towers "
            f"{supported}, for example transformers.CLIPModel. {reason}The model was left as it is."
        )
    return found


def _num_positions(text_tower: nn.Module) -> int:
    # of the weight, since LoRA may stand in the place of the module
    return text_tower.embeddings.position_embedding.weight.shape[0]


def tower_shape(tower: nn.Module) -> TowerShape:
    """What an adapter depends on, of one tower."""
    positions = _num_positions(tower) if prompted_tower(tower).modality == "text" else None
    return TowerShape(tower.config.hidden_size, tower.config.num_hidden_layers, positions)
