"""The methods that the lab compares: one record per method, which everything else reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Optional

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..classifier.texts import split_template
from ..config import MuDPTConfig
from ..presets import PRESETS
from ..rules import check_template
from .data.sources import DEFAULT_TEMPLATE
from .flags import Options, flag
from .probe import LinearProbe


# Okabe and Ito's colors, which color-blind readers can tell apart. Related methods share a color and differ in line
# and marker.
VERMILLION, BLUE, GREEN, ORANGE, PINK = "#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7"
SKY, BLACK, GREY = "#56B4E9", "#000000", "#999999"


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


@dataclass(frozen=True)
class Ground:
    """
    What a method is put on.

    Args:
        clip: is frozen, and holds the adapter afterwards.
        tokenizer: the CLIP's own.
        class_names: the classes that are trained on.
        template: text of a class; None for the method's or the data set's own.
        fields: of the config of the method's adapter, over the method's own.
    """

    clip: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    class_names: Sequence[str]
    template: Optional[str] = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def put_adapter_on(method: Method, ground: Ground) -> Learner:
    """
    Give the CLIP an adapter of `method.adapter`. Text prompts take the place of the template's first words, and start
    from them if `method.starts_from_words`.

    Raises:
        ValueError: if `ground.fields` are no fields of the adapter's config, or the CLIP refuses it.
    """
    try:
        config = method.adapter(**{**method.fields, **ground.fields})
    except TypeError as error:  # what a dataclass raises for a field it does not have
        raise ValueError(f"--method_kwargs {ground.fields} do not go with {method.name}: {error}.") from error
    template = after_prompts = ground.template
    if isinstance(config, MuDPTConfig) and config.num_tokens("text") > 0:
        template = template or DEFAULT_TEMPLATE
        words, after_prompts = split_template(template, ground.tokenizer, config.num_tokens("text"))
        if method.starts_from_words and "text_prompt_init_text" not in ground.fields:
            config.text_prompt_init_text = words
    return Learner(get_peft_model(ground.clip, config), template, after_prompts)


def leave_plain(method: Method, ground: Ground) -> Learner:
    """The CLIP as it is, frozen."""
    _refuse_fields(method, ground)
    return Learner(ground.clip.requires_grad_(False), ground.template, ground.template)


def put_probe_on(method: Method, ground: Ground) -> Learner:
    """One linear layer on the CLIP's image features."""
    _refuse_fields(method, ground)
    return Learner(LinearProbe(ground.clip, len(ground.class_names)), ground.template, ground.template)


def _refuse_fields(method: Method, ground: Ground) -> None:
    if ground.fields:
        raise ValueError(f"{method.name} has no config; leave out --method_kwargs {ground.fields}.")


@dataclass(frozen=True)
class Method:
    """
    All that the lab knows of a method. To add one is to add one record, see docs/write_a_preset.md.

    Args:
        name: as `--method` takes it, and as tables print it.
        title: as people write it.
        paper: its arXiv number.
        adapter: class of the config of the PEFT adapter that the method leaves; None: it leaves none.
        fields: of that config.
        put_on: puts the method on a CLIP.
        optimizer: "sgd" or "adamw", unless the user says otherwise; None: nothing is trained.
        learning_rate: its published peak; None: nothing is trained.
        objective: what is minimized, one of `training.objectives.OBJECTIVES`.
        initialize: called once before training, with the adapted model and a loader of the training pictures (batches
            of `pixel_values` (B, 3, H, W) and `labels` (B,)); for methods whose parameters start from data.
        starts_from_words: whether text prompts start from the words they replace, or at random.
        names_new_classes: whether it can name classes it was not trained on.
        look: how plots draw it, as options of `matplotlib.axes.Axes.plot`; without `color` the plot chooses.
        emphasized: whether plots draw it in front and show its classes.
    """

    name: str
    title: str
    paper: Optional[str] = None
    adapter: Optional[type[PeftConfig]] = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    put_on: Callable[[Method, Ground], Learner] = put_adapter_on
    optimizer: Optional[str] = "sgd"
    learning_rate: Optional[float] = 0.0025  # of MuDPT and of most of its relatives
    objective: str = "cross_entropy"
    initialize: Optional[Callable[[torch.nn.Module, DataLoader], None]] = None
    starts_from_words: bool = True
    names_new_classes: bool = True
    look: Mapping[str, Any] = field(default_factory=dict)
    emphasized: bool = False

    @property
    def is_trained(self) -> bool:
        """Whether anything is learned."""
        return self.optimizer is not None

    @property
    def leaves_adapter(self) -> bool:
        """Whether it ends in an adapter that can be saved, described and shared."""
        return self.adapter is not None

    @property
    def remembers_classes(self) -> bool:
        """Whether the config of its adapter has a place for the class names and their text."""
        return self.adapter is not None and "class_names" in {field.name for field in fields(self.adapter)}

    @property
    def plain_image_features(self) -> bool:
        """Whether the method's image features are plain CLIP's, so that they never change in training."""
        if self.adapter is None:
            return True
        return issubclass(self.adapter, MuDPTConfig) and not self.adapter(**self.fields).num_tokens("vision")


def preset_method(preset: str, title: Optional[str] = None, paper: Optional[str] = None, **facts) -> Method:
    """The record of a preset of [`MuDPTConfig`]; without a title it is called like the preset."""
    return Method(preset, title or preset, paper, adapter=MuDPTConfig, fields=PRESETS[preset], **facts)


# Learning rates are those of each paper's released configuration. LoRA's is CLIP-LoRA's (arXiv 2405.18541), with rank
# 2 on the queries, keys and values of both towers. The linear probe has none: CLIP's own is a logistic regression.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "zero_shot",
            "Zero-shot CLIP",
            "2103.00020",
            put_on=leave_plain,
            optimizer=None,
            learning_rate=None,
            look=dict(color=BLACK, marker="*", linestyle="none", markersize=13),
        ),
        Method(
            "linear_probe",
            "Linear probe",
            "2103.00020",
            put_on=put_probe_on,
            optimizer="adamw",
            learning_rate=1e-3,
            names_new_classes=False,
            look=dict(color=GREY, marker="s"),
        ),
        Method(
            "lora",
            "LoRA",
            "2106.09685",
            adapter=LoraConfig,
            fields={"r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "k_proj", "v_proj"]},
            optimizer="adamw",
            learning_rate=2e-4,
            look=dict(color=BLACK, marker="D"),
        ),
        preset_method(
            "coop",
            "CoOp",
            "2109.01134",
            learning_rate=0.002,
            starts_from_words=False,
            look=dict(color=BLUE, marker="o"),
        ),
        preset_method("vpt_shallow", "VPT, shallow", "2203.12119", look=dict(color=PINK, marker="v", linestyle="--")),
        preset_method("vpt_deep", "VPT, deep", "2203.12119", look=dict(color=PINK, marker="^")),
        preset_method(
            "ivlp",
            "IVLP, independent prompts in both towers",
            "2210.03117",
            look=dict(color=GREEN, marker="P"),
        ),
        preset_method("maple", "MaPLe", "2210.03117", learning_rate=0.0035, look=dict(color=ORANGE, marker="X")),
        preset_method(
            "umudpt",
            "UMuDPT, the one-directional form of MuDPT",
            "2306.11400",
            look=dict(color=VERMILLION, marker="<", linestyle=":"),
        ),
        preset_method(
            "mudpt_linear",
            "MuDPT with linear injection",
            "2306.11400",
            look=dict(color=VERMILLION, marker=">", linestyle="--"),
        ),
        preset_method(
            "mudpt",
            "MuDPT",
            "2306.11400",
            look=dict(color=VERMILLION, marker="o", linewidth=3, markersize=9, zorder=5),
            emphasized=True,
        ),
    )
}


def all_methods() -> dict[str, Method]:
    """Every method by name, in the order of tables: the records, then the presets that have none of their own."""
    return {**METHODS, **{preset: preset_method(preset) for preset in PRESETS if preset not in METHODS}}


def find_method(name: str) -> Method:
    """
    The method called so.

    Raises:
        ValueError: if there is none.
    """
    methods = all_methods()
    if name not in methods:
        raise ValueError(f"Unknown method {name!r}; there are {', '.join(methods)}.")
    return methods[name]


@dataclass(frozen=True)
class MethodOptions(Options):
    """Which method is used, and how it differs from the published one."""

    method: str = flag("mudpt", f"One of {', '.join(METHODS)}, or another preset of MuDPTConfig.")
    method_kwargs: Optional[str] = flag(
        None, """Fields of the method's config as JSON, over the preset's: '{"prompt_depth": 3}'."""
    )
    template: Optional[str] = flag(
        None,
        "Text of a class. Text prompts start from its first words; the rest stands after them. "
        "None: 'a photo of a {}.', or the data set's own for methods without text prompts.",
    )

    def __post_init__(self):
        super().__post_init__()
        find_method(self.method)
        if self.template is not None:
            check_template(self.template, "--template")
        self.config_fields()

    def config_fields(self) -> dict[str, Any]:
        """`method_kwargs`, read."""
        if self.method_kwargs is None:
            return {}
        try:
            values = json.loads(self.method_kwargs)
        except json.JSONDecodeError as error:
            raise ValueError(f"--method_kwargs {self.method_kwargs!r} is not JSON: {error}.") from error
        if not isinstance(values, dict):
            raise ValueError(f"--method_kwargs {self.method_kwargs!r} must be an object: field names and values.")
        return values
