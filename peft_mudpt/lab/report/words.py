"""Finds the words that are nearest to learned text prompts."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...towers.registry import family_of


@torch.no_grad()
def nearest_words(
    prompts: torch.Tensor, clip: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, number: int = 3
) -> list[list[dict[str, Any]]]:
    """
    Find the words of the vocabulary whose token embeddings are nearest to each prompt (CoOp, arXiv 2109.01134,
    table 4).

    Args:
        prompts: (n, d_t), the n learned text prompt tokens of the input layer; d_t is the width of the text tower.
        clip: the CLIP that has the token embeddings.
        tokenizer: the tokenizer of the CLIP.
        number: number of words per prompt.

    Returns:
        For each prompt a list, nearest first, of `word` and `distance` (Euclidean).
    """
    family = family_of(clip)
    embeddings = family.text.token_table(family.text_tower(clip))  # (V, d_t)
    known = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)))
    known = known[known < len(embeddings)].to(embeddings.device)
    exact = "donot_use_mm_for_euclid_dist"  # the default mode is faster, but inexact for small distances
    distances = torch.cdist(prompts.float(), embeddings[known].float(), compute_mode=exact)  # (n, V)
    nearest = distances.topk(number, largest=False)
    return [
        [{"word": tokenizer.decode([known[i].item()]).strip(), "distance": round(d, 4)} for i, d in zip(ids, lengths)]
        for ids, lengths in zip(nearest.indices.tolist(), nearest.values.tolist())
    ]
