"""The methods that the lab compares in classification, and the way to find a method of any task.

Each is one `Method` record; all other modules read its properties there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

from peft import LoraConfig

from ..config import MuDPTConfig
from ..presets import PRESETS
from ..rules import check_template
from .detection.methods import METHODS as DETECTION_METHODS
from .flags import Options, flag
from .learner import add_probe, add_tip_adapter
from .method import (
    BLACK,
    BLUE,
    CLASSIFICATION,
    DETECTION,
    GRAY,
    GREEN,
    ORANGE,
    PINK,
    SKY,
    VERMILLION,
    Method,
    preset_method,
)
from .tip_adapter import TipAdapter


# The weights of PromptSRC's released configurations, which are the same for all data sets.
PROMPTSRC_ANCHORS = dict(text_anchor="l1", text_anchor_weight=25, image_anchor_weight=10, logit_anchor_weight=1)


# The setting of SPT's paper: 20 prompts in all layers, a linear head, and its learning rate for supervised backbones.
VPT_WITH_HEAD: dict[str, Any] = dict(
    adapter=MuDPTConfig,
    fields={**PRESETS["vpt_deep"], "num_virtual_tokens": 20},
    optimizer="adamw",
    learning_rate=1e-3,
    has_head=True,
    names_new_classes=False,
)

# AdvPT learns the text prompts of CoOp, but more of them.
ADVPT: dict[str, Any] = {**PRESETS["coop"], "num_virtual_tokens": 32}
CLASS_SPECIFIC: dict[str, Any] = dict(
    adapter=MuDPTConfig,
    fields={**ADVPT, "class_specific_context": True},
    learning_rate=0.002,
    starts_from_words=False,
    names_new_classes=False,
)

# MuDPT's published optimizer is SGD; AdamW was better in short runs (docs/comparison.md, "What the recipe changes").
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
        Method(
            "advpt",
            "AdvPT, CoOp on attacked pictures",
            "2311.11261",
            adapter=MuDPTConfig,
            fields=ADVPT,
            learning_rate=0.002,
            adversarial=True,
            starts_from_words=False,
            look=dict(color=BLUE, marker="X", linestyle="-."),
        ),
        Method(
            "coop_csc",
            "CoOp with a context per class",
            "2109.01134",
            **CLASS_SPECIFIC,
            look=dict(color=BLUE, marker="s"),
        ),
        Method(
            "advpt_csc",
            "AdvPT with a context per class",
            "2311.11261",
            **CLASS_SPECIFIC,
            adversarial=True,
            look=dict(color=BLUE, marker="P", linestyle="-."),
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
        preset_method(
            "fed_dpt",
            "Fed-DPT, a context per domain",
            "2310.03103",
            optimizer="adamw",
            learning_rate=0.004,  # published: 5e-4, for 200 epochs
            look=dict(color=SKY, marker="*", linestyle="--"),
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
            "mudpt_deep",
            "MuDPT with prompts in all layers",
            "2306.11400",
            adapter=MuDPTConfig,
            fields={**PRESETS["mudpt"], "prompt_depth": "all"},
            **MUDPT_RECIPE,
            look=dict(color=VERMILLION, marker="^"),
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
        Method(
            "mudpt_adversarial",
            "MuDPT on attacked pictures",
            "2306.11400",
            adapter=MuDPTConfig,
            fields=PRESETS["mudpt"],
            adversarial=True,
            **MUDPT_RECIPE,
            look=dict(color=VERMILLION, marker="X", linestyle="-."),
        ),
    )
}


def all_methods(task: str = CLASSIFICATION) -> dict[str, Method]:
    """
    List every method of a task: in classification the records of `METHODS`, then the presets without a record.

    Args:
        task: one of `method.TASKS`.

    Returns:
        The methods by name, in the order in which tables list them.
    """
    if task == DETECTION:
        return DETECTION_METHODS
    return {**METHODS, **{preset: preset_method(preset) for preset in PRESETS if preset not in METHODS}}


def methods_of_all_tasks() -> dict[str, Method]:
    """
    List the methods of all tasks, for tables and plots. Of methods that share a name, such as LoRA, that of
    classification is listed, because both are shown in the same way.

    Returns:
        The methods by name, in the order in which tables list them.
    """
    return {**all_methods(), **{name: own for name, own in DETECTION_METHODS.items() if name not in all_methods()}}


def find_method(name: str, task: str = CLASSIFICATION) -> Method:
    """
    Look up a method.

    Args:
        name: name of a method of the task.
        task: one of `method.TASKS`.

    Returns:
        The record of the method.

    Raises:
        ValueError: if the name is unknown.
    """
    methods = all_methods(task)
    if name not in methods:
        raise ValueError(f"Unknown method {name!r}; the known methods are {', '.join(methods)}.")
    return methods[name]


@dataclass(frozen=True)
class BaseMethodOptions(Options):
    """Options that name a method and change its config. A subclass knows the task. `--help` describes each."""

    title: ClassVar[str] = "the method"

    method: str = flag("", "Name of the method.")
    method_kwargs: Optional[str] = flag(
        None, """Fields of the method's config that replace its defaults, as JSON: '{"num_virtual_tokens": 4}'."""
    )

    task: ClassVar[str]

    def __post_init__(self):
        super().__post_init__()
        find_method(self.method, self.task)
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


@dataclass(frozen=True)
class MethodOptions(BaseMethodOptions):
    """Options that name a method of classification and the texts of classes. `--help` describes each."""

    task: ClassVar[str] = CLASSIFICATION

    method: str = flag("mudpt", f"One of {', '.join(all_methods())}.")
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
        metavar="FILE",
    )
    descriptions: Optional[str] = flag(
        None,
        'A JSON file {"class": ["sentence", ...], ...} with further texts of each class, used like --templates.',
        metavar="FILE",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.template is not None:
            check_template(self.template, "--template")
