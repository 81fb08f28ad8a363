"""AltCLIP (arXiv 2211.06679): CLIP's image tower with a multilingual text tower."""

from __future__ import annotations

from typing import Optional

import torch
from torch import nn
from transformers import AltCLIPModel, AltCLIPTextModel, AltCLIPVisionModel

from .base import part
from .bidirectional import PromptedBertText
from .family import Family
from .vision import PromptedVision


class PromptedAltCLIPText(PromptedBertText):
    """
    Sequence: [BOS, prompts, words, EOS, padding]. The tower pools at BOS. Its layers are those of XLM-RoBERTa, which
    gives padding the position `pad_token_id`, and the other tokens the positions that follow.
    """

    tower_class = AltCLIPTextModel
    embeddings = "roberta.embeddings"
    encoder = "roberta.encoder"
    layers = "layers"
    final_norm = "pre_LN"

    @classmethod
    def num_positions(cls, tower: nn.Module) -> int:
        return super().num_positions(tower) - cls.first_position(part(tower, cls.embeddings))

    @classmethod
    def first_position(cls, embeddings: nn.Module) -> int:
        return part(embeddings, "padding_idx") + 1

    @classmethod
    def unread(cls, tower: nn.Module, ids: torch.Tensor, mask: Optional[torch.Tensor], n: int) -> torch.Tensor:
        return super().unread(tower, ids, mask, n) | (ids == part(tower, "config").pad_token_id)

    def _make_room(self, tower: nn.Module, kwargs: dict, n: int) -> dict:
        padding = part(tower, "config").pad_token_id
        ids, given = kwargs["input_ids"], kwargs.get("position_ids")
        if given is not None:  # padding has no place among the words
            kwargs = {**kwargs, "position_ids": given.masked_fill(ids == padding, padding + ids.shape[-1])}
        made = super()._make_room(tower, kwargs, n)
        return {**made, "position_ids": made["position_ids"].masked_fill(ids == padding, padding)}

    @classmethod
    def pooled_states(cls, tower: nn.Module, states: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        return part(tower, "transformation")(super().pooled_states(tower, states, mask))


class PromptedAltCLIPVision(PromptedVision):
    """Sequence: [CLS, patches, prompts]. The tower pools at CLS."""

    tower_class = AltCLIPVisionModel
    can_be_shortened = True


class AltCLIPFamily(Family):
    """AltCLIP: logits are exp(logit_scale) * cosine."""

    model_class = AltCLIPModel
    text = PromptedAltCLIPText
    vision = PromptedAltCLIPVision
    return_loss_place = 5
