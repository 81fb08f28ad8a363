"""The methods that the lab compares. Each is one `Method` record; all other modules read its properties there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Optional

import torch
from peft import LoraConfig, PeftConfig
from torch.utils.data import DataLoader

from ..classifier.templates import IMAGENET
from ..config import MuDPTConfig, PromptInitialization
from ..presets import PRESETS
from ..rules import check_template
from .flags import Options, flag
from .learner import Ground, Learner, add_adapter, add_head, add_probe, add_tip_adapter, leave_plain
from .tip_adapter import TipAdapter


# The palette of Okabe and Ito, because color-blind readers can distinguish its colors. Related methods share a color
# and differ in line style and marker.
VERMILLION, BLUE, GREEN, ORANGE, PINK = "#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7"
SKY, BLACK, GRAY = "#56B4E9", "#000000", "#999999"


# The weights of PromptSRC's released configurations, which are the same for all data sets.
PROMPTSRC_ANCHORS = dict(text_anchor="l1", text_anchor_weight=25, image_anchor_weight=10, logit_anchor_weight=1)


@dataclass(frozen=True)
class Method:
    """
    Everything that the lab knows about a method. To add a method, add one record (see docs/write_a_preset.md).

    Args:
        name: name in `--method` and in tables.
        title: name in running text.
        paper: arXiv number of the paper.
        adapter: class of the adapter's PEFT config; None: the method has no adapter.
        fields: values of those fields of the PEFT config that differ from the defaults of its class; without an
            adapter, the options of the method with their defaults.
        put_on: function that applies the method to a CLIP, given the CLIP and the options of `fields`; only used if
            `adapter` is None.
        fit: function that learns without optimizer steps; None: the method learns by steps, or not at all. It is
            called once, with the model that `put_on` made, and with the normalized features (N, D) and the labels (N,)
            of the training pictures, which are not augmented.
        optimizer: default optimizer, "sgd" or "adamw"; None: there are no steps.
        learning_rate: default peak learning rate; None: there are no steps.
        other_learning_rates: default peak learning rates of other optimizers, by optimizer; `learning_rate` for those
            that are missing.
        objective: the loss, one of `training.objectives.OBJECTIVES`.
        anchors: default fields of `training.anchors.Anchors`, which are added to the loss.
        anchor_templates: texts of a class that the frozen CLIP encodes for the anchors, with `{}` for its name; empty:
            the template of the run. Several texts that the user gives replace them.
        averaging: default Gaussian that averages the learned parameters over the epochs: its mean and its standard
            deviation, as shares of the epochs of the run; None: no average.
        has_head: True if a linear layer on the image features, trained with the adapter, takes the place of texts.
        prompt_initialization: default start of the vision prompts (see `initialize_prompts`); None: random numbers.
        initialize: function that initializes parameters from data; None: the method needs none. It is called once
            before training, with the adapted CLIP and a loader of each training picture once, without augmentation
            (batches of `pixel_values` (B, 3, H, W) and `labels` (B,)).
        starts_from_words: True if text prompts are initialized from the words that they replace, False if at random.
        names_new_classes: True if the method can name classes that it was not trained on.
        look: options of `matplotlib.axes.Axes.plot` for its plots. Without `color`, the plot chooses.
        emphasized: True if bar plots outline the method in black, and the plot of single classes shows it.
    """

    name: str
    title: str
    paper: Optional[str] = None
    adapter: Optional[type[PeftConfig]] = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    put_on: Callable[..., Learner] = leave_plain
    fit: Optional[Callable[[Any, torch.Tensor, torch.Tensor], None]] = None
    optimizer: Optional[str] = "sgd"
    learning_rate: Optional[float] = 0.0025  # that of MuDPT and of most prompt methods
    other_learning_rates: Mapping[str, float] = field(default_factory=dict)
    objective: str = "cross_entropy"
    anchors: Mapping[str, Any] = field(default_factory=dict)
    anchor_templates: Sequence[str] = IMAGENET
    averaging: Optional[tuple[float, float]] = None
    has_head: bool = False
    prompt_initialization: Optional[PromptInitialization] = None
    initialize: Optional[Callable[[torch.nn.Module, DataLoader], None]] = None
    starts_from_words: bool = True
    names_new_classes: bool = True
    look: Mapping[str, Any] = field(default_factory=dict)
    emphasized: bool = False

    def apply(self, ground: Ground) -> Learner:
        """
        Apply the method to a CLIP.

        Args:
            ground: the CLIP and the classes.

        Returns:
            The learner, ready to be trained.

        Raises:
            ValueError: if `ground.fields` names a field that the adapter's config or the method lacks, or if the
                config does not fit the CLIP.
        """
        if self.adapter is None:
            if unknown := ground.fields.keys() - self.fields.keys():
                known = f"the options {', '.join(self.fields)}" if self.fields else "no options"
                raise ValueError(
                    f"Method {self.name} has {known}; leave {', '.join(sorted(unknown))} out of --method_kwargs "
                    f"{ground.fields}."
                )
            return self.put_on(ground, **{**self.fields, **ground.fields})
        try:
            config = self.adapter(**{**self.fields, **ground.fields})
        except TypeError as error:  # a dataclass raises this for an unknown field
            raise ValueError(
                f"--method_kwargs {ground.fields} do not fit the config of method {self.name}: {error}. "
                f"Give fields of {self.adapter.__name__}."
            ) from error
        learner = add_adapter(ground, config, self.starts_from_words)
        return add_head(ground, learner) if self.has_head else learner

    def learning_rate_with(self, optimizer: Optional[str]) -> Optional[float]:
        """
        The default peak learning rate with an optimizer.

        Args:
            optimizer: "sgd" or "adamw"; None: the method's default.

        Returns:
            The rate; None if there are no steps.
        """
        return self.other_learning_rates.get(optimizer, self.learning_rate)

    @property
    def is_trained(self) -> bool:
        """True if the method learns from the training pictures, by steps or without."""
        return self.has_steps or self.fit is not None

    @property
    def has_steps(self) -> bool:
        """True if the method learns by optimizer steps."""
        return self.optimizer is not None

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of a method without an adapter, with their defaults; empty for adapters, which have a config."""
        return self.fields if self.adapter is None else {}

    @property
    def leaves_adapter(self) -> bool:
        """True if training results in a PEFT adapter that can be shared by itself, because it needs no head."""
        return self.adapter is not None and not self.has_head

    @property
    def remembers_classes(self) -> bool:
        """True if the adapter's config stores the class names and their template."""
        return self.adapter is not None and "class_names" in {field.name for field in fields(self.adapter)}


def preset_method(preset: str, title: Optional[str] = None, paper: Optional[str] = None, **facts) -> Method:
    """
    Make the `Method` record of a preset of [`MuDPTConfig`].

    Args:
        preset: name of the preset, which becomes the name of the method.
        title: name in running text; None: the name of the preset.
        paper: arXiv number of the paper.
        facts: other fields of `Method`.

    Returns:
        The record.
    """
    return Method(preset, title or preset, paper, adapter=MuDPTConfig, fields=PRESETS[preset], **facts)


# The setting of SPT's paper: 20 prompts in all layers, a linear head, and its learning rate for supervised backbones.
VPT_WITH_HEAD: dict[str, Any] = dict(
    adapter=MuDPTConfig,
    fields={**PRESETS["vpt_deep"], "num_virtual_tokens": 20},
    optimizer="adamw",
    learning_rate=1e-3,
    has_head=True,
    names_new_classes=False,
)

# MuDPT's published optimizer is SGD; AdamW was better in our runs (docs/comparison.md, "What the recipe changes").
MUDPT_RECIPE: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "other_learning_rates": {"sgd": 0.0025},
}
# The other learning rates are those of each paper's released configuration. LoRA follows CLIP-LoRA (arXiv 2405.18541):
# rank 2 on the queries, keys and values of both towers. The linear probe has no published rate, because CLIP's paper
# fits a logistic regression; this one is ours. Tip-Adapter's alpha and beta are the paper's defaults, without its
# search. TCP's code has Adam, with its weight decay of 5e-4 added to the gradient and eps=1e-3; here it has AdamW of
# the same rate.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "zero_shot",
            "Zero-shot CLIP",
            "2103.00020",
            optimizer=None,
            learning_rate=None,
            look=dict(color=BLACK, marker="*", linestyle="none", markersize=13),
        ),
        Method(
            "linear_probe",
            "Linear probe",
            "2103.00020",
            put_on=add_probe,
            fields={"start": "text"},
            optimizer="adamw",
            learning_rate=1e-3,
            names_new_classes=False,
            look=dict(color=GRAY, marker="s"),
        ),
        Method(
            "tip_adapter",
            "Tip-Adapter, training-free",
            "2111.03930",
            put_on=add_tip_adapter,
            fields={"alpha": 1.0, "beta": 5.5},
            fit=TipAdapter.remember,
            optimizer=None,
            learning_rate=None,
            names_new_classes=False,
            look=dict(color=GRAY, marker="p", linestyle=":"),
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
        preset_method(
            "cocoop",
            "CoCoOp",
            "2203.05557",
            learning_rate=0.002,
            look=dict(color=BLUE, marker="d"),
        ),
        Method(
            "cocoop_noise",
            "CoCoOp from noise in place of images, a control",
            "2203.05557",
            adapter=MuDPTConfig,
            fields={**PRESETS["cocoop"], "conditioning": "noise"},
            learning_rate=0.002,
            look=dict(color=BLUE, marker="d", linestyle=":"),
        ),
        preset_method(
            "tcp",
            "TCP",
            "2311.18231",
            optimizer="adamw",
            learning_rate=0.002,
            anchors=dict(text_anchor="cosine", text_anchor_weight=8),
            anchor_templates=(),
            starts_from_words=False,
            look=dict(color=BLUE, marker="p", linestyle="--"),
        ),
        preset_method("vpt_shallow", "VPT, shallow", "2203.12119", look=dict(color=PINK, marker="v", linestyle="--")),
        preset_method("vpt_deep", "VPT, deep", "2203.12119", look=dict(color=PINK, marker="^")),
        Method(
            "vpt_head",
            "VPT, deep, with a linear head",
            "2203.12119",
            **VPT_WITH_HEAD,
            look=dict(color=PINK, marker="s", linestyle="--"),
        ),
        Method(
            "spt",
            "SPT: VPT with a linear head, started from pictures",
            "2402.02382",
            **VPT_WITH_HEAD,
            prompt_initialization="random",
            look=dict(color=PINK, marker="D"),
        ),
        preset_method(
            "ivlp",
            "IVLP, independent prompts in both towers",
            "2210.03117",
            look=dict(color=GREEN, marker="P"),
        ),
        preset_method(
            "promptsrc",
            "PromptSRC",
            "2307.06948",
            anchors=PROMPTSRC_ANCHORS,
            averaging=(0.75, 0.05),  # 15 and 1 of 20 epochs
            look=dict(color=SKY, marker="h"),
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
            **MUDPT_RECIPE,
            look=dict(color=VERMILLION, marker="o", linewidth=3, markersize=9, zorder=5),
            emphasized=True,
        ),
        Method(
            "mudpt_anchored",
            "MuDPT, held near the frozen CLIP",
            "2306.11400",
            adapter=MuDPTConfig,
            fields=PRESETS["mudpt"],
            anchors=PROMPTSRC_ANCHORS,
            **MUDPT_RECIPE,
            look=dict(color=VERMILLION, marker="h", linestyle="-."),
        ),
    )
}


def all_methods() -> dict[str, Method]:
    """
    List every method: the records of `METHODS`, then the presets without a record.

    Returns:
        The methods by name, in the order in which tables list them.
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

    method: str = flag("mudpt", f"One of {', '.join(all_methods())}.")
    method_kwargs: Optional[str] = flag(
        None, """Fields of the method's config that replace its defaults, as JSON: '{"prompt_depth": 3}'."""
    )
    template: Optional[str] = flag(
        None,
        "Text of a class, with {} for its name. Text prompts replace its first words; the rest follows them. None: "
        "'a photo of a {}.' for methods with text prompts, the template of the data set for others.",
    )
    templates: Optional[str] = flag(
        None,
        "Several texts of a class, whose features are averaged: 'imagenet' for CLIP's 80 templates, the name of "
        "another data set of CoOp for its template, or a text file with a template per line. They are for zero-shot "
        "CLIP and for methods without text prompts, because text prompts replace words of one --template.",
    )
    descriptions: Optional[str] = flag(
        None,
        'A JSON file {"class": ["sentence", ...], ...} with further texts of each class, used like --templates.',
    )

    def __post_init__(self):
        super().__post_init__()
        find_method(self.method)
        if self.template is not None:
            check_template(self.template, "--template")
        self.config_fields()

    def config_fields(self) -> dict[str, Any]:
        """Parse `method_kwargs` (JSON) into a dict; empty if it is None."""
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
