"""What learned text prompts are close to, in words."""

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
    The vocabulary's words whose token embeddings lie nearest to each prompt (CoOp, arXiv 2109.01134, table 4).

    Args:
        prompts: (n, d_t), the text prompts of the input layer.
        clip: whose token embeddings are meant.
        tokenizer: its tokenizer.
        number: words per prompt.

    Returns:
        For each prompt, nearest first: `word`, and `distance`, Euclidean.
    """
    family = family_of(clip)
    embeddings = family.text.token_table(family.text_tower(clip))  # (V, d_t)
    known = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)))
    known = known[known < len(embeddings)].to(embeddings.device)
    exact = "donot_use_mm_for_euclid_dist"  # the faster way loses the digits of small distances
    distances = torch.cdist(prompts.float(), embeddings[known].float(), compute_mode=exact)  # (n, V)
    nearest = distances.topk(number, largest=False)
    return [
        [{"word": tokenizer.decode([known[i].item()]).strip(), "distance": round(d, 4)} for i, d in zip(ids, row)]
        for ids, row in zip(nearest.indices.tolist(), nearest.values.tolist())
    ]
