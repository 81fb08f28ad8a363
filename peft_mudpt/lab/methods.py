"""The methods that the lab compares. Each is one record, from which all other modules read its properties."""

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


# The palette of Okabe and Ito, because color-blind readers can distinguish its colors. Related methods share a color
# and differ in line style and marker.
VERMILLION, BLUE, GREEN, ORANGE, PINK = "#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7"
SKY, BLACK, GRAY = "#56B4E9", "#000000", "#999999"


@dataclass(frozen=True)
class Learner:
    """
    A model that is ready to be trained.

    Args:
        model: a CLIP, plain or with an adapter, or a linear probe. Only the parameters that the method learns require
            a gradient.
        template: text of a class as the user writes it; None: the template of the data set.
        template_after_prompts: the part of `template` that follows the text prompts, which the model encodes; None:
            the template of the data set.
    """

    model: torch.nn.Module
    template: Optional[str]
    template_after_prompts: Optional[str]


@dataclass(frozen=True)
class Ground:
    """
    The CLIP and the classes to which a method is applied.

    Args:
        clip: the CLIP. It is changed in place: it is frozen, and gets the adapter.
        tokenizer: that of the CLIP.
        class_names: the training classes.
        template: text of a class, with `{}` for its name; None: the default of the method or the data set.
        fields: fields of the adapter's config that replace the method's defaults.
    """

    clip: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    class_names: Sequence[str]
    template: Optional[str] = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def put_adapter_on(method: Method, ground: Ground) -> Learner:
    """
    Give the CLIP an adapter of type `method.adapter`.

    Text prompts replace the first words of the template. They are initialized from these words if
    `method.starts_from_words`.

    Args:
        method: the method.
        ground: the CLIP and the classes.

    Returns:
        The adapted CLIP.

    Raises:
        ValueError: if the adapter's config does not know `ground.fields`, or does not fit the CLIP.
    """
    try:
        config = method.adapter(**{**method.fields, **ground.fields})
    except TypeError as error:  # a dataclass raises this for an unknown field
        raise ValueError(
            f"--method_kwargs {ground.fields} do not fit the config of method {method.name}: {error}. "
            f"Give fields of {method.adapter.__name__}."
        ) from error
    template = after_prompts = ground.template
    if isinstance(config, MuDPTConfig) and config.num_tokens("text") > 0:
        template = template or DEFAULT_TEMPLATE
        words, after_prompts = split_template(template, ground.tokenizer, config.num_tokens("text"))
        if method.starts_from_words and "text_prompt_init_text" not in ground.fields:
            config.text_prompt_init_text = words
    return Learner(get_peft_model(ground.clip, config), template, after_prompts)


def leave_plain(method: Method, ground: Ground) -> Learner:
    """
    Freeze the CLIP without adapting it.

    Args:
        method: the method.
        ground: the CLIP and the classes.

    Returns:
        The frozen CLIP.

    Raises:
        ValueError: if there are `ground.fields`, because there is no config.
    """
    _refuse_fields(method, ground)
    return Learner(ground.clip.requires_grad_(False), ground.template, ground.template)


def put_probe_on(method: Method, ground: Ground) -> Learner:
    """
    Put one linear layer on the image features of the CLIP (see `LinearProbe`).

    Args:
        method: the method.
        ground: the CLIP and the classes.

    Returns:
        The linear probe.

    Raises:
        ValueError: if there are `ground.fields`, because there is no config.
    """
    _refuse_fields(method, ground)
    return Learner(LinearProbe(ground.clip, len(ground.class_names)), ground.template, ground.template)


def _refuse_fields(method: Method, ground: Ground) -> None:
    if ground.fields:
        raise ValueError(f"Method {method.name} has no config; leave out --method_kwargs {ground.fields}.")


@dataclass(frozen=True)
class Method:
    """
    Everything that the lab knows about a method. To add a method, add one record (see docs/write_a_preset.md).

    Args:
        name: name in `--method` and in tables.
        title: name in running text.
        paper: arXiv number of the paper.
        adapter: class of the adapter's PEFT config; None: the method has no adapter.
        fields: fields of that config that differ from its defaults.
        put_on: applies the method to a CLIP.
        optimizer: default optimizer, "sgd" or "adamw"; None: nothing is trained.
        learning_rate: default peak learning rate, as published; None: nothing is trained.
        objective: the loss, one of `training.objectives.OBJECTIVES`.
        initialize: called once before training with the adapted model and a loader of the training pictures (batches
            of `pixel_values` (B, 3, H, W) and `labels` (B,)). It is for methods that initialize parameters from data.
        starts_from_words: True if text prompts are initialized from the words that they replace, False if at random.
        names_new_classes: True if the method can name classes that it was not trained on.
        look: options of `matplotlib.axes.Axes.plot` for its plots. Without `color`, the plot chooses.
        emphasized: True if plots show the method in front, and show its classes.
    """

    name: str
    title: str
    paper: Optional[str] = None
    adapter: Optional[type[PeftConfig]] = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    put_on: Callable[[Method, Ground], Learner] = put_adapter_on
    optimizer: Optional[str] = "sgd"
    learning_rate: Optional[float] = 0.0025  # that of MuDPT and of most prompt methods
    objective: str = "cross_entropy"
    initialize: Optional[Callable[[torch.nn.Module, DataLoader], None]] = None
    starts_from_words: bool = True
    names_new_classes: bool = True
    look: Mapping[str, Any] = field(default_factory=dict)
    emphasized: bool = False

    @property
    def is_trained(self) -> bool:
        """True if the method learns parameters."""
        return self.optimizer is not None

    @property
    def leaves_adapter(self) -> bool:
        """True if training results in a PEFT adapter, which can be saved and shared."""
        return self.adapter is not None

    @property
    def remembers_classes(self) -> bool:
        """True if the adapter's config stores the class names and their template."""
        return self.adapter is not None and "class_names" in {field.name for field in fields(self.adapter)}

    @property
    def plain_image_features(self) -> bool:
        """True if the image features equal those of the plain CLIP, and therefore do not change in training."""
        if self.adapter is None:
            return True
        return issubclass(self.adapter, MuDPTConfig) and not self.adapter(**self.fields).num_tokens("vision")


def preset_method(preset: str, title: Optional[str] = None, paper: Optional[str] = None, **facts) -> Method:
    """
    Make the record of a preset of [`MuDPTConfig`].

    Args:
        preset: name of the preset, which becomes the name of the method.
        title: name in running text; None: the name of the preset.
        paper: arXiv number of the paper.
        facts: other fields of `Method`.

    Returns:
        The record.
    """
    return Method(preset, title or preset, paper, adapter=MuDPTConfig, fields=PRESETS[preset], **facts)


# Learning rates are those of each paper's released configuration. LoRA follows CLIP-LoRA (arXiv 2405.18541): rank 2 on
# the queries, keys and values of both towers. The linear probe has no published rate, because CLIP's paper fits a
# logistic regression; this one is ours.
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
            look=dict(color=GRAY, marker="s"),
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
    """
    List every method: the records of `METHODS`, then the presets without a record.

    Returns:
        The methods by name, in the order of tables.
    """
    return {**METHODS, **{preset: preset_method(preset) for preset in PRESETS if preset not in METHODS}}


def find_method(name: str) -> Method:
    """
    Look up a method.

    Args:
        name: name of a record of `METHODS`, or of a preset.

    Returns:
        The record of the method.

    Raises:
        ValueError: if the name is unknown.
    """
    methods = all_methods()
    if name not in methods:
        raise ValueError(f"Unknown method {name!r}; the known methods are {', '.join(methods)}.")
    return methods[name]


@dataclass(frozen=True)
class MethodOptions(Options):
    """Options that name a method and change its config. `--help` describes each."""

    method: str = flag("mudpt", f"One of {', '.join(METHODS)}, or another preset of MuDPTConfig.")
    method_kwargs: Optional[str] = flag(
        None, """Fields of the method's config that replace its defaults, as JSON: '{"prompt_depth": 3}'."""
    )
    template: Optional[str] = flag(
        None,
        "Text of a class, with {} for its name. Text prompts replace its first words; the rest follows them. None: "
        "'a photo of a {}.' for methods with text prompts, the template of the data set for others.",
    )

    def __post_init__(self):
        super().__post_init__()
        find_method(self.method)
        if self.template is not None:
            check_template(self.template, "--template")
        self.config_fields()

    def config_fields(self) -> dict[str, Any]:
        """`method_kwargs`, parsed."""
        if self.method_kwargs is None:
            return {}
        try:
            values = json.loads(self.method_kwargs)
        except json.JSONDecodeError as error:
            raise ValueError(f"--method_kwargs {self.method_kwargs!r} is not JSON: {error}.") from error
        if not isinstance(values, dict):
            raise ValueError(
                f"--method_kwargs {self.method_kwargs!r} must be a JSON object that maps field names to values."
            )
        return values
