"""What is compared: every preset, and what a user would pick instead, on the same CLIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from ..classifier.texts import split_template
from ..config import PRESETS, MuDPTConfig
from ..towers.registry import family_of
from .data.sources import DEFAULT_TEMPLATE


@dataclass(frozen=True)
class Method:
    """
    How a method is trained unless the user says otherwise.

    Args:
        learning_rate: its published one; None for what is not trained.
        optimizer: "sgd" or "adamw".
        starts_from_words: whether its text prompts start from the words they replace, or at random.
    """

    learning_rate: Optional[float] = None
    optimizer: Optional[str] = None
    starts_from_words: bool = True


# Learning rates: of each paper's released configuration. LoRA: CLIP-LoRA (arXiv 2405.18541). The linear probe has
# none: CLIP's own is a logistic regression solved to the end.
PUBLISHED_PROMPTS = {"coop": 0.002, "maple": 0.0035}
METHODS = {
    "zero_shot": Method(),
    "linear_probe": Method(1e-3, "adamw"),
    "lora": Method(2e-4, "adamw"),
    **{name: Method(PUBLISHED_PROMPTS.get(name, 0.0025), "sgd", name != "coop") for name in PRESETS},
}
# CLIP-LoRA: rank 2 on the queries, keys and values of both towers.
LORA = {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "k_proj", "v_proj"]}


class LinearProbe(torch.nn.Module):
    """
    One linear layer on the frozen, normalised image features (CLIP, arXiv 2103.00020, section 3.2).

    It knows the classes it was trained on, and no others. Its logits are scaled like CLIP's, so that they start in
    the range in which CLIP's are.
    """

    def __init__(self, clip: PreTrainedModel, num_classes: int):
        super().__init__()
        self.clip = clip.requires_grad_(False)
        self.config = clip.config
        self.family = family_of(clip)
        self.head = torch.nn.Linear(self.family.feature_size(clip.config), num_classes)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutputWithNoAttention:
        """The `logits` (B, C) of images (B, 3, H, W)."""
        with torch.no_grad():
            features = normalize(self.family.image_features(self.clip, pixel_values), dim=-1)  # (B, D)
        return ImageClassifierOutputWithNoAttention(logits=self.family.logit_scale(self.clip) * self.head(features))


@dataclass(frozen=True)
class Learner:
    """
    A model that is ready to be trained.

    Args:
        model: a CLIP, plain or with an adapter, or a linear probe. Only what the method learns requires a gradient.
        template: text of a class as the user writes it; None for the data set's own.
        template_after_prompts: text of a class as the model is fed it; None for the data set's own.
    """

    model: torch.nn.Module
    template: Optional[str]
    template_after_prompts: Optional[str]


def check_method(name: str) -> Method:
    """
    The method called so.

    Raises:
        ValueError: if there is none.
    """
    if name not in METHODS:
        raise ValueError(f"Unknown method {name!r}; there are {', '.join(METHODS)}.")
    return METHODS[name]


def build(
    name: str,
    fields: dict[str, Any],
    clip: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    class_names: list[str],
    template: Optional[str],
) -> Learner:
    """
    Put a method on a CLIP.

    Args:
        name: one of `METHODS`.
        fields: of the config of its adapter, over the method's own.
        clip: is frozen; the adapter is put into it.
        tokenizer: the CLIP's own.
        class_names: what is trained on.
        template: text of a class, or None for the method's or the data set's own.

    Raises:
        ValueError: if there is no such method, or `fields` make no config of it.
    """
    method = check_method(name)
    if name in ("zero_shot", "linear_probe"):
        if fields:
            raise ValueError(f"{name} has no config; --method_kwargs {fields} says nothing to it.")
        model = LinearProbe(clip, len(class_names)) if name == "linear_probe" else clip.requires_grad_(False)
        return Learner(model, template, template)

    from peft import LoraConfig, get_peft_model

    try:
        config = LoraConfig(**{**LORA, **fields}) if name == "lora" else MuDPTConfig.from_preset(name, **fields)
    except TypeError as error:  # a dataclass's word for a field it does not have
        raise ValueError(f"--method_kwargs {fields} do not go with {name}: {error}.") from error
    after_prompts = template
    if name != "lora" and config.num_tokens("text") > 0:
        template = template or DEFAULT_TEMPLATE
        words, after_prompts = split_template(template, tokenizer, config.num_tokens("text"))
        if method.starts_from_words and "text_prompt_init_text" not in fields:
            config.text_prompt_init_text = words
    return Learner(get_peft_model(clip, config), template, after_prompts)
