"""Functions that apply a method to a CLIP. Each returns a `Learner`: a model that is ready to be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from peft import PeftConfig, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..classifier.class_texts import ClassTexts
from ..classifier.texts import split_template
from ..config import MuDPTConfig
from ..layer import layer_of
from .data.few_shot_data import DEFAULT_TEMPLATE
from .probe import LinearProbe


@dataclass(frozen=True)
class Learner:
    """
    A model that is ready to be trained.

    Args:
        model: a CLIP, plain or with an adapter, or a linear probe. Only the parameters that the method learns require
            a gradient.
        template: full text of a class, with `{}` for its name; None: the template of the data set.
        template_after_prompts: the part of `template` that the model encodes after its text prompts, or all of
            `template` if there are none; None: the template of the data set.
    """

    model: torch.nn.Module
    template: Optional[str]
    template_after_prompts: Optional[str]

    @property
    def has_text_prompts(self) -> bool:
        """True if the text tower of the model has prompts."""
        layer = layer_of(self.model)
        return layer is not None and layer.num_tokens("text") > 0

    def class_texts(self, texts: Optional[ClassTexts]) -> Optional[ClassTexts]:
        """
        The texts that the model encodes.

        Args:
            texts: the texts of classes for a model without text prompts; None: the template of the data set.

        Returns:
            `texts`, or what follows the text prompts if the model has some.
        """
        return ClassTexts.given(self.template_after_prompts) if self.has_text_prompts else texts


@dataclass(frozen=True)
class Ground:
    """
    The CLIP and the classes to which a method is applied.

    Args:
        clip: the CLIP. It is changed in place: it is frozen, and gets the adapter.
        tokenizer: tokenizer of the CLIP.
        class_names: the training classes.
        template: text of a class, with `{}` for its name; None: the default of the method or the data set.
        fields: fields of the adapter's config that replace the method's defaults.
        revision: the CLIP's revision on the Hub, which the adapter's config records; None: the main branch.
    """

    clip: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    class_names: Sequence[str]
    template: Optional[str] = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    revision: Optional[str] = None


def add_adapter(ground: Ground, config: PeftConfig, starts_from_words: bool = True) -> Learner:
    """
    Give the CLIP a PEFT adapter. Text prompts replace the first words of the template. If they depend on the class, they
    are conditioned on its feature from the whole template.

    Args:
        ground: the CLIP and the classes.
        config: the config of the adapter.
        starts_from_words: True if text prompts are initialized from the words that they replace.

    Returns:
        The learner, whose model is the adapted CLIP.

    Raises:
        ValueError: if the config does not fit the CLIP.
    """
    template = after_prompts = ground.template
    if isinstance(config, MuDPTConfig) and config.num_tokens("text") > 0:
        template = after_prompts = template or DEFAULT_TEMPLATE
        words = None
        if config.start("text") == 0:  # prompts that start above the input replace no word
            words, after_prompts = split_template(template, ground.tokenizer, config.num_tokens("text"))
        if starts_from_words and "text_prompt_init_text" not in ground.fields:
            config.text_prompt_init_text = words
        if config.conditioning == "class" and "condition_template" not in ground.fields:
            config.condition_template = template
    return Learner(get_peft_model(ground.clip, config, revision=ground.revision), template, after_prompts)


def leave_plain(ground: Ground) -> Learner:
    """
    Freeze the CLIP without adapting it.

    Args:
        ground: the CLIP and the classes.

    Returns:
        The learner, whose model is the frozen CLIP.
    """
    return Learner(ground.clip.requires_grad_(False), ground.template, ground.template)


def add_probe(ground: Ground) -> Learner:
    """
    Put one linear layer on the image features of the CLIP (see `LinearProbe`).

    Args:
        ground: the CLIP and the classes.

    Returns:
        The learner, whose model is the linear probe.
    """
    return Learner(LinearProbe(ground.clip, ground.class_names), ground.template, ground.template)
