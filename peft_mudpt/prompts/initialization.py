"""Initializes text prompts from the token embeddings of words, and vision prompts from tokens of pictures."""

from __future__ import annotations

from typing import Optional

import torch
from transformers import AutoTokenizer

from ..config import MuDPTConfig
from .prompts import MultiModalPrompts


def init_token_ids(
    config: MuDPTConfig, name_or_path: Optional[str], vocabulary: int
) -> Optional[dict[str, list[int]]]:
    """
    Return {words: token ids} for the words in `config.text_prompt_init_text`.

    If the config already holds these ids (as a saved adapter's does), they are kept. Otherwise the tokenizer that the
    config names, or else the base model's own, computes them. Without words, return `config.text_prompt_init_ids`.

    Args:
        config: the adapter's config.
        name_or_path: folder or Hub id of the base model, used if the config names none.
        vocabulary: number of tokens that the base model knows.

    Raises:
        ValueError: if there is no tokenizer, it finds no token in the words, or an id is outside the vocabulary.
    """
    words = config.text_prompt_init_text
    if words is None:
        return config.text_prompt_init_ids
    ids = (config.text_prompt_init_ids or {}).get(words)
    if ids is None:
        base, revision = config.base_model_name_or_path or name_or_path, config.revision
        own = config.tokenizer_name_or_path
        ids = _tokenize(words, own or base, None if own else revision)
    if max(ids) >= vocabulary:
        raise ValueError(
            f"text_prompt_init_text={words!r} has the token ids {ids}, but the base model knows only {vocabulary} "
            "tokens. Set tokenizer_name_or_path to the tokenizer of the base model."
        )
    return {words: ids}


def _tokenize(words: str, tokenizer_name_or_path: Optional[str], revision: Optional[str]) -> list[int]:
    way_out = "Set tokenizer_name_or_path, or leave text_prompt_init_text out for a random start."
    if not tokenizer_name_or_path:
        raise ValueError(
            f"text_prompt_init_text={words!r} needs a tokenizer, and the base model was not loaded from a folder or a "
            f"Hub id that could hold it. {way_out}"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_name_or_path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"text_prompt_init_text={words!r} needs a tokenizer, and {tokenizer_name_or_path!r} gives none ({error}). "
            f"{way_out}"
        ) from error
    ids = tokenizer(words, add_special_tokens=False).input_ids
    if not ids:
        raise ValueError(f"text_prompt_init_text={words!r} holds no word. Give words, or None for a random start.")
    return ids


@torch.no_grad()
def start_from_words(prompts: MultiModalPrompts, embedded: torch.Tensor) -> None:
    """
    Set the n text prompts of the input layer, in place, to the first n of the word embeddings `embedded` (m, d_t);
    those of each domain, if domains have their own. If m < n, the last n - m prompts stay random.
    """
    if embedded.is_meta:  # a base on "meta" has no numbers to start from
        return
    if prompts.domain_contexts is not None:
        starts = list(prompts.domain_contexts.contexts)
    else:
        assert prompts.text_prompts is not None, "MuDPTConfig refuses words for no text prompts"
        starts = [prompts.text_prompts[0]]
    for first in starts:  # (n, d_t)
        m = min(len(embedded), len(first))
        first[:m] = embedded[:m].to(first)


@torch.no_grad()
def start_from_prototypes(prompts: MultiModalPrompts, prototypes: torch.Tensor) -> None:
    """
    Set the raw vision prompts, in place, so that the effective ones equal `prototypes` (layers, n, d_v):
    V_i = prototypes_i - F(T_i), and V_i = prototypes_i in layers without fusion.

    Raises:
        ValueError: if a prompt would be NaN or infinite. The prompts stay as they were.
    """
    own = prompts.vision_prompts
    assert own is not None, "find_free_vision_prompts refuses an adapter without vision prompts of its own"
    shift = prompts("vision", prompts.layers["vision"]).squeeze(0) - own  # (layers, n, d_v), F(T_i) or 0
    start = prototypes.to(own) - shift
    if not start.isfinite().all():
        raise ValueError(
            "The vision prompts would be NaN or infinite: the model's activations are, or the adapter's weights. "
            "Check both, or load the model in float32."
        )
    own.copy_(start)
