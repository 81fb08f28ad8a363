"""Class names -> text features, once; images -> class logits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Optional

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase

from .encoding import encode_layout, lay_out_classes


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
    if template.count("{}") != 1:
        raise ValueError(
            f"The template {template!r} must hold {{}} once, where the class name goes: 'a photo of a {{}}.'"
        )
    before, _, after = template.partition("{}")
    words = re.findall(r"\S+\s*", before)  # each with the space behind it

    def count(k: int) -> int:
        return len(tokenizer("".join(words[:k]), add_special_tokens=False).input_ids)

    taken = max(k for k in range(len(words) + 1) if count(k) <= num_tokens)
    return "".join(words[:taken]).strip() or None, "".join(words[taken:]) + "{}" + after


def tokenize_classes(
    tokenizer: PreTrainedTokenizerBase, class_names: Sequence[str], template: str
) -> dict[str, torch.Tensor]:
    """The texts of the classes, in order: `input_ids` and `attention_mask` (C, L)."""
    return dict(tokenizer([template.replace("{}", name) for name in class_names], padding=True, return_tensors="pt"))


def encode_classes(
    model: torch.nn.Module, class_tokens: dict[str, torch.Tensor], class_batch_size: Optional[int] = None
) -> torch.Tensor:
    """
    The text features of the classes, to be computed once for any number of images.

    Args:
        model: a CLIPModel, plain or with an adapter.
        class_tokens: what `tokenize_classes` returns.
        class_batch_size: classes encoded at a time; None chooses by the size of the model.

    Returns:
        Normalised features (C, D).
    """
    return normalize(encode_layout(model, lay_out_classes(model, class_tokens, class_batch_size)), dim=-1)


def classify(model: torch.nn.Module, pixel_values: torch.Tensor, class_features: torch.Tensor) -> torch.Tensor:
    """
    The logits of images against encoded classes, exp(logit_scale) * cosine; their softmax are class probabilities.

    Args:
        model: the CLIPModel that encoded the classes.
        pixel_values: images (B, 3, H, W), as the image processor makes them.
        class_features: (C, D) from `encode_classes`.

    Returns:
        Logits (B, C), as `logits_per_image` of the model's own forward.
    """
    image_features = normalize(model.get_image_features(pixel_values=pixel_values).pooler_output, dim=-1)  # (B, D)
    return model.logit_scale.exp() * image_features @ class_features.t()
