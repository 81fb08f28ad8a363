"""Makes the texts of the classes from class names and a template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Optional

import torch
from transformers import PreTrainedTokenizerBase

from ..rules import check_class_names, check_template


def split_template(template: str, tokenizer: PreTrainedTokenizerBase, num_tokens: int) -> tuple[Optional[str], str]:
    """
    Split a CLIP template into the words that text prompts replace, and the rest.

    The prompts replace the template's first words, and can be initialized from them. The words that do not fit into
    the prompt tokens stay in the template (as in MaPLe, arXiv 2210.03117). Example: two prompt tokens and "a photo of
    a {}." give ("a photo", "of a {}.").

    Args:
        template: the text of a class, with `{}` for the class name.
        tokenizer: the CLIP's tokenizer, which counts the tokens of the words.
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
    Tokenize the texts of C classes, in order, to `input_ids` and `attention_mask` (C, L).

    Args:
        tokenizer: the CLIP's own tokenizer.
        class_names: names of the classes, in the order of the labels.
        template: the text of a class, with `{}` for the class name.
        multiple: pad the texts to a length L that is a multiple of this number; None pads to the longest text. A text
            tower that pools at the last token needs its full length (64 for SigLIP).

    Raises:
        ValueError: if the template does not hold `{}` exactly once, or `class_names` is not a list of non-empty names.
    """
    check_template(template)
    texts = [template.replace("{}", name) for name in check_class_names(class_names)]
    return dict(tokenizer(texts, padding=True, pad_to_multiple_of=multiple, return_tensors="pt"))
