"""What a method is applied to and what comes of it, for any task; and the functions that apply methods to a CLIP."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from peft import PeftConfig, get_peft_model
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..classifier.bank import text_bank
from ..classifier.class_texts import ClassTexts
from ..classifier.texts import split_template
from ..config import MuDPTConfig
from ..layer import layer_of
from ..library_warnings import without_known_warnings
from ..rules import one_of
from .data.few_shot_data import DEFAULT_TEMPLATE
from .heads import Head
from .probe import LinearProbe
from .tip_adapter import TipAdapter


START = one_of("text", "zero")
HEADS: tuple[type[Head], ...] = (LinearProbe, TipAdapter)  # each is saved in a file of its own


@dataclass(frozen=True)
class Learner:
    """
    A model that is ready to be trained.

    Args:
        model: a CLIP or a detector, plain or with an adapter, or a head on a CLIP. Only the parameters that the method
            learns require a gradient.
        template: full text of a class, with `{}` for its name; None: the template of the data set. A detector has
            none.
        template_after_prompts: the part of `template` that the model encodes after its text prompts, or all of
            `template` if there are none; None: the template of the data set.
    """

    model: torch.nn.Module
    template: Optional[str] = None
    template_after_prompts: Optional[str] = None

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


class BaseGround(ABC):
    """
    The model and the classes to which a method is applied.

    Attributes:
        model: the model. It is changed in place: it is frozen, and gets the adapter.
        class_names: the training classes.
        template: text of a class, with `{}` for its name; None: the default of the method or the data set.
        fields: fields of the adapter's config, or options of the method, that replace the method's defaults.
    """

    model: Any
    class_names: Sequence[str]
    template: Optional[str] = None
    fields: Mapping[str, Any]

    @abstractmethod
    def add_adapter(self, config: PeftConfig, starts_from_words: bool = True) -> Learner:
        """
        Give the model a PEFT adapter.

        Args:
            config: the config of the adapter.
            starts_from_words: True if text prompts are initialized from the words that they replace.

        Returns:
            The learner, whose model is the adapted one.

        Raises:
            ValueError: if the config does not fit the model.
        """


@dataclass(frozen=True)
class Ground(BaseGround):
    """
    The CLIP and the classes to which a method is applied.

    Args:
        model: the CLIP. It is changed in place: it is frozen, and gets the adapter.
        tokenizer: tokenizer of the CLIP.
        class_names: the training classes.
        template: text of a class, with `{}` for its name; None: the default of the method or the data set.
        fields: fields of the adapter's config, or options of the method, that replace the method's defaults.
        revision: the CLIP's revision on the Hub, which the adapter's config records; None: the main branch.
        texts: the texts of the classes for a CLIP without text prompts; None: the default template.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    class_names: Sequence[str]
    template: Optional[str] = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    revision: Optional[str] = None
    texts: Optional[ClassTexts] = None

    def add_adapter(self, config: PeftConfig, starts_from_words: bool = True) -> Learner:
        """
        Give the CLIP a PEFT adapter. Text prompts replace the first words of the template. If they depend on the
        class, the whole template gives the feature of each class that they are made from.

        Args:
            config: the config of the adapter.
            starts_from_words: True if text prompts are initialized from the words that they replace.

        Returns:
            The learner, whose model is the adapted CLIP.

        Raises:
            ValueError: if the config does not fit the CLIP.
        """
        template = after_prompts = self.template
        if isinstance(config, MuDPTConfig) and config.num_tokens("text") > 0:
            template = after_prompts = template or DEFAULT_TEMPLATE
            words = None
            if config.class_specific_context:
                starts_from_words = False
            if config.start("text") == 0:  # prompts that start above the input replace no word
                words, after_prompts = split_template(template, self.tokenizer, config.num_tokens("text"))
            if starts_from_words and "text_prompt_init_text" not in self.fields:
                config.text_prompt_init_text = words
            if config.conditioning == "class" and "condition_template" not in self.fields:
                config.condition_template = template
        with without_known_warnings():
            adapted = get_peft_model(self.model, config, revision=self.revision)
        return Learner(adapted, template, after_prompts)

    def class_features(self) -> torch.Tensor:
        """Compute the normalized text features (C, D) of the classes, as zero-shot CLIP uses them."""
        texts = self.texts or ClassTexts.given(DEFAULT_TEMPLATE)
        return normalize(text_bank(self.model, self.tokenizer, texts.of(self.class_names)), dim=-1)


def leave_plain(ground: BaseGround) -> Learner:
    """
    Freeze the model without adapting it.

    Args:
        ground: the model and the classes.

    Returns:
        The learner, whose model is the frozen one.
    """
    return Learner(ground.model.requires_grad_(False), ground.template, ground.template)


def add_probe(ground: Ground, start: str) -> Learner:
    """
    Put one linear layer on the image features of the CLIP (see `LinearProbe`).

    Args:
        ground: the CLIP and the classes.
        start: "text": the weights begin at the text features of the classes; "zero": at zero.

    Returns:
        The learner, whose model is the linear probe.

    Raises:
        ValueError: if `start` is another value.
    """
    START.check(start, "start")
    weights = ground.class_features() if start == "text" else None
    probe = LinearProbe(ground.model, ground.class_names, start=weights)
    return Learner(probe, ground.template, ground.template)


def add_head(ground: Ground, learner: Learner) -> Learner:
    """
    Put a linear layer, which begins at zero, on the image features of an adapted CLIP in place of texts.

    Args:
        ground: the CLIP and the classes.
        learner: what `Ground.add_adapter` made of the CLIP.

    Returns:
        The learner, whose model is a linear probe that is trained together with the adapter.
    """
    return Learner(LinearProbe(learner.model, ground.class_names), ground.template, ground.template)


def add_tip_adapter(ground: Ground, alpha: float, beta: float) -> Learner:
    """
    Put a Tip-Adapter, which remembers no picture yet, on the CLIP (see `TipAdapter`).

    Args:
        ground: the CLIP and the classes.
        alpha: see `TipAdapter`.
        beta: see `TipAdapter`.

    Returns:
        The learner, whose model is the Tip-Adapter.

    Raises:
        ValueError: if alpha or beta is out of range.
    """
    features = ground.class_features()
    model = TipAdapter(ground.model, ground.class_names, class_features=features, alpha=alpha, beta=beta)
    return Learner(model, ground.template, ground.template)
