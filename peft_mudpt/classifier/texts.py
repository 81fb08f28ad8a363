"""Splits templates, and tokenizes the texts of the classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from reprlib import repr as short_repr
from typing import Optional

import torch
from transformers import PreTrainedTokenizerBase

from ..rules import CLASS_TEXTS, check_class_names, check_template


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
    Tokenize the texts of C classes, in order, to `input_ids` and `attention_mask` (C, L), padded on the right.

    Args:
        tokenizer: the CLIP's own tokenizer.
        class_names: names of the classes, in the order of the labels.
        template: the text of a class, with `{}` for the class name.
        multiple: see `tokenize_texts`.

    Raises:
        ValueError: if the template does not hold `{}` exactly once, if `class_names` is not a list of non-empty names,
            or if a text holds a token that marks where a text begins or ends, such as `<|endoftext|>`.
    """
    check_template(template)
    texts = [[template.replace("{}", name)] for name in check_class_names(class_names)]
    return tokenize_texts(tokenizer, texts, multiple)


def tokenize_texts(
    tokenizer: PreTrainedTokenizerBase, class_texts: Sequence[Sequence[str]], multiple: Optional[int] = None
) -> dict[str, torch.Tensor]:
    """
    Tokenize T texts of C classes, class by class, to `input_ids` and `attention_mask` (T, L), padded on the right.

    Args:
        tokenizer: the CLIP's own tokenizer.
        class_texts: the texts of each class, in the order of the labels.
        multiple: pad the texts to a length L that is a multiple of this number; None pads to the longest text. A text
            tower that pools at the last token needs its full length (64 for SigLIP).

    Raises:
        ValueError: if there are no classes, if a class has no texts or a blank one, or if a text holds a token that
            marks where a text begins or ends, such as `<|endoftext|>`.
    """
    CLASS_TEXTS.check(class_texts, "class_texts")
    texts = [text for own in class_texts for text in own]
    # on the right even if the tokenizer pads on the left by default: the text towers are trained with it
    options = dict(padding=True, padding_side="right", pad_to_multiple_of=multiple, return_tensors="pt")
    tokens = dict(tokenizer(texts, **options))
    _check_marks(tokenizer, texts, text_owners(class_texts), tokens)
    return tokens


def text_owners(class_texts: Sequence[Sequence[str]], class_names: Sequence[str] = ()) -> list[str]:
    """
    What error messages call the owner of each text, such as "class 1 ('cat', text 3 of 80)".

    Args:
        class_texts: the texts of each class, in the order of the labels.
        class_names: the names of the classes; may be empty.
    """
    owners = []
    for label, texts in enumerate(class_texts):
        name = [short_repr(class_names[label])] if class_names else []
        for number in range(1, len(texts) + 1):
            remarks = ", ".join([*name, *([f"text {number} of {len(texts)}"] if len(texts) > 1 else [])])
            owners.append(f"class {label}" + (f" ({remarks})" if remarks else ""))
    return owners


def _check_marks(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], owners: list[str], tokens: dict[str, torch.Tensor]
) -> None:
    """Refuse texts with BOS or EOS among their words: a tower that pools at EOS would ignore the words after it."""
    mask = tokens.get("attention_mask")
    if mask is None:
        return
    for mark in {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}:
        # the tokenizer adds each once; padding, which may be EOS too, is masked
        wrong = ((tokens["input_ids"] == mark) & (mask == 1)).sum(dim=1) > 1  # (T,)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"The text {texts[row]!r} of {owners[row]} holds the token {tokenizer.convert_ids_to_tokens(mark)!r}, "
                "which marks where a text begins or ends, so that words would be ignored. Change the name or the "
                "template."
            )
