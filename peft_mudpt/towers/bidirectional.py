"""What the text towers share in which every token sees every other, except padding, which an attention mask hides."""

from __future__ import annotations

from typing import ClassVar, Optional

import torch
from torch import nn

from .base import part
from .text import PromptedText


def mask_with_tokens(mask: torch.Tensor, place: int, n: int) -> torch.Tensor:
    """
    A mask over pairs of tokens (B, 1, L, L) in which no token but padding is hidden, with n further tokens.

    Args:
        mask: the mask, true (or in floating point 0) where the token of the third axis sees that of the fourth.
        place: number of tokens before the new ones.
        n: number of new tokens. All others see them, and they see what the first token sees, which is no padding.

    Returns:
        The mask (B, 1, L + n, L + n).
    """
    seen = mask.new_full((*mask.shape[:-1], n), 0.0 if mask.is_floating_point() else True)
    wide = torch.cat([mask[..., :place], seen, mask[..., place:]], dim=-1)  # (B, 1, L, L + n)
    return torch.cat([wide[:, :, :place], wide[:, :, :1].expand(-1, -1, n, -1), wide[:, :, place:]], dim=-2)


class PromptedBidirectionalText(PromptedText):
    """
    Sequence: [first tokens, prompts, words, padding], where every token sees every other but the padding. Prompts take
    the positions of prefix words, so that prompts equal to the embeddings of such words give the same feature as the
    words. The tokenizer's attention mask is needed wherever a text is padded.
    """

    is_causal = False
    hides_padding = True

    @classmethod
    def unread(cls, tower: nn.Module, ids: torch.Tensor, mask: Optional[torch.Tensor], n: int) -> torch.Tensor:
        if mask is None:
            return torch.zeros_like(ids, dtype=torch.bool)
        before, after = mask[:, : cls.tokens_before], mask[:, cls.tokens_before + n :]
        return torch.cat([before, after], dim=1) == 0

    def mask_with_room(self, mask: torch.Tensor, n: int) -> torch.Tensor:
        return super().mask_with_room(mask, n) if mask.dim() == 2 else mask_with_tokens(mask, self.tokens_before, n)


class PromptedBertText(PromptedBidirectionalText):
    """
    A text tower with BERT's layers. Sequence: [CLS, prompts, words, SEP, padding]. The feature is that of CLS. The
    embeddings normalize the sum of the embeddings of a token, its position and its type; those of a prompt, which has
    the type of all words, do so, too.

    Attributes:
        type_embedding: where the embeddings keep the table of token types.
        embedding_norm, embedding_dropout: where the embeddings keep what follows the sum.
    """

    argument_names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    layers = "layer"
    position_embedding = "position_embeddings"
    token_embedding = "word_embeddings"
    type_embedding: ClassVar[str] = "token_type_embeddings"
    embedding_norm: ClassVar[str] = "LayerNorm"
    embedding_dropout: ClassVar[str] = "dropout"
    final_norm: ClassVar[Optional[str]] = None  # each layer ends with a LayerNorm
    tokens_before = 1
    ties_last_state = True

    def as_embedded(self, embeddings: nn.Module, prompts: torch.Tensor, device: torch.device) -> torch.Tensor:
        positioned = super().as_embedded(embeddings, prompts, device)  # (b, n, d)
        kind = part(embeddings, self.type_embedding)(torch.zeros(1, dtype=torch.long, device=positioned.device))
        normed = part(embeddings, self.embedding_norm)((positioned + kind).to(kind.dtype))
        return part(embeddings, self.embedding_dropout)(normed)

    @classmethod
    def pooled(cls, output) -> torch.Tensor:
        return output.last_hidden_state[:, 0]

    @classmethod
    def pooled_states(cls, tower: nn.Module, states: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        return states[:, 0]
