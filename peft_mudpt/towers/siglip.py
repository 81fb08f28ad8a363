"""SigLIP (arXiv 2303.15343), and SigLIP 2 of fixed resolution, which has the same classes."""

from __future__ import annotations

import warnings
from typing import ClassVar, Optional

import torch
from torch import nn
from torch.nn.functional import logsigmoid
from transformers import PretrainedConfig, SiglipModel, SiglipTextModel, SiglipVisionModel

from .base import part
from .family import Family
from .text import PromptedText
from .vision import PromptedVision


class PromptedSiglipText(PromptedText):
    """
    Sequence: [prompts, words, EOS, padding], where every token sees every other. The tower pools at the last token, so
    texts must be padded with `padding="max_length"`, and the sequence keeps that length: if the position table has no
    room for all prompts, padding tokens at the end are dropped instead, and the output lacks their states. Prompts
    take the positions of prefix words, so prompts equal to the embeddings of such words give the same result as the
    words. A mask of two axes, which the tokenizer makes, is ignored, because SigLIP is trained without one.
    """

    tower_class: ClassVar[type[nn.Module]] = SiglipTextModel
    projection = None  # the tower has a head
    tokens_before = 0
    is_causal = False

    def _widened(self, mask: torch.Tensor, n: int) -> Optional[torch.Tensor]:
        if not torch.compiler.is_compiling() and not mask.all():
            warnings.warn(
                "attention_mask was ignored: SigLIP is trained without one, and pools at the last token, which is "
                "padding. Leave the tokenizer's attention_mask out. To hide words on purpose, give a mask of four "
                "axes.",
                stacklevel=2,
            )
        return None

    def _make_room(self, tower: nn.Module, kwargs: dict, n: int) -> dict:
        ids, given = kwargs["input_ids"], kwargs.get("position_ids")  # (B, L)
        table, length = self.num_positions(tower), ids.shape[-1]
        position_ids = torch.arange(length, device=ids.device)[None] if given is None else given  # (1 or B, L)
        # without a branch while it is compiled or exported: one graph serves all lengths
        if given is None and not torch.compiler.is_compiling() and length + n <= table:
            return {**kwargs, "position_ids": position_ids + n}
        # torch 2.8 compiles no `sym_min` of plain numbers, and `min` would fix a length that torch.export leaves open
        kept = (min if isinstance(length, int) else torch.sym_min)(length, table - n)
        columns = torch.arange(kept, device=ids.device)
        lengths = self.text_lengths(ids)  # (B,)
        moved = position_ids[:, columns] + n
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
        return {
            **kwargs,
            "input_ids": ids[..., columns],
            "position_ids": moved.masked_fill(lengths[..., None] > kept, table),
        }

    @classmethod
    def pooled_states(cls, tower: nn.Module, states: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        return part(tower, "head")(states[:, -1])

    @classmethod
    def text_lengths(cls, ids: torch.Tensor) -> torch.Tensor:
        """
        For each text (B, L), the number (B,) of leading tokens that must not be cut off. In a trailing run of one
        repeated token, all but the first count as padding (the first may be EOS, as some tokenizers pad with EOS).
        """
        places = torch.arange(1, 1 + ids.shape[-1], device=ids.device)  # (L,)
        return ((ids != ids[..., -1:]) * places).amax(dim=-1) + 1


class PromptedSiglipVision(PromptedVision):
    """Sequence: [patches, prompts]. The tower's attention head pools the patches only, because prompts are removed."""

    tower_class: ClassVar[type[nn.Module]] = SiglipVisionModel
    projection = None  # the tower has a head
    tokens_before_patches = 0


class SiglipFamily(Family):
    """SigLIP: logits are exp(logit_scale) * cosine + logit_bias."""

    model_class: ClassVar[type[nn.Module]] = SiglipModel
    text: ClassVar[type[PromptedText]] = PromptedSiglipText
    vision: ClassVar[type[PromptedVision]] = PromptedSiglipVision

    def logit_bias(self, model: nn.Module) -> Optional[torch.Tensor]:
        return part(model, "logit_bias")

    def contrastive_loss(self, logits_per_text: torch.Tensor) -> torch.Tensor:
        signs = 2 * torch.eye(len(logits_per_text), device=logits_per_text.device) - 1  # 1 for a text's own image
        return -logsigmoid(signs * logits_per_text).sum(dim=-1).mean()

    def feature_size(self, config: PretrainedConfig) -> int:
        return config.text_config.projection_size
