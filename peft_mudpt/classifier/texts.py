"""Class names and a template -> the texts of the classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Optional

import torch
from transformers import PreTrainedTokenizerBase

from ..rules import check_class_names, check_template


def split_template(template: str, tokenizer: PreTrainedTokenizerBase, num_tokens: int) -> tuple[Optional[str], str]:
    """
    What text prompts take over of a CLIP template, and what stands after them.

    The prompts stand in the place of the template's first words and can start from them; words beyond their number
    stay (as in MaPLe, arXiv 2210.03117). Two prompt tokens and "a photo of a {}." give ("a photo", "of a {}.").

    Args:
        template: the text of a class, with `{}` for its name.
        tokenizer: counts the tokens of the words.
        num_tokens: number of text prompt tokens; 0 leaves the template whole.

    Returns:
        The words for `MuDPTConfig.text_prompt_init_text` (None if there are none), and the remaining template.

    Raises:
        ValueError: if the template does not hold `{}` exactly once.
    """
    check_template(template)
    before, _, after = template.partition("{}")
    words = re.findall(r"\S+\s*", before)  # each with the space behind it

    def count(k: int) -> int:
        return len(tokenizer("".join(words[:k]), add_special_tokens=False).input_ids)

    taken = max(k for k in range(len(words) + 1) if count(k) <= num_tokens)
    return "".join(words[:taken]).strip() or None, "".join(words[taken:]) + "{}" + after


def tokenize_classes(
    tokenizer: PreTrainedTokenizerBase, class_names: Sequence[str], template: str, multiple: Optional[int] = None
) -> dict[str, torch.Tensor]:
    """
    The texts of the classes, in order: `input_ids` and `attention_mask` (C, L).

    Args:
        tokenizer: the CLIP's own.
        class_names: in the order of the labels.
        template: text of a class, with `{}` for its name.
        multiple: of which L is one; None for the length of the longest text. A tower that pools at the last token
            needs its whole length (SigLIP's 64).

    Raises:
        ValueError: if the template does not hold `{}` exactly once, or what should be a name is none.
    """
    check_template(template)
    texts = [template.replace("{}", name) for name in check_class_names(class_names)]
    return dict(tokenizer(texts, padding=True, pad_to_multiple_of=multiple, return_tensors="pt"))
