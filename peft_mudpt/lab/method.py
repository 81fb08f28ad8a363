"""The record of a method: everything that the lab knows about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Optional

import torch
from peft import PeftConfig
from torch.utils.data import DataLoader

from ..classifier.templates import IMAGENET
from ..config import MuDPTConfig, PromptInitialization
from ..presets import PRESETS
from .learner import BaseGround, Learner, add_head, leave_plain


# The palette of Okabe and Ito, because color-blind readers can distinguish its colors. Related methods share a color
# and differ in line style and marker.
VERMILLION, BLUE, GREEN, ORANGE, PINK = "#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7"
SKY, BLACK, GRAY = "#56B4E9", "#000000", "#999999"

CLASSIFICATION, DETECTION = "image-classification", "object-detection"  # the tasks, as the Hub calls them
TASKS = (CLASSIFICATION, DETECTION)
MAIN_MEASURES = {CLASSIFICATION: "accuracy", DETECTION: "map"}  # by which the methods of a task are compared


@dataclass(frozen=True)
class Method:
    """
    Everything that the lab knows about a method. To add a method, add one record to `methods.METHODS` (see
    docs/write_a_preset.md), or to `detection.methods.METHODS`.

    Args:
        name: name in `--method` and in tables.
        title: name in running text.
        paper: arXiv number of the paper.
        adapter: class of the adapter's PEFT config; None: the method has no adapter.
        fields: values of those fields of the PEFT config that differ from the defaults of its class; without an
            adapter, the options of the method with their defaults.
        put_on: function that applies the method to a model, given the ground and the options of `fields`; only used
            if `adapter` is None.
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
        adversarial: True if the method learns from attacked pictures.
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
    adversarial: bool = False
    has_head: bool = False
    prompt_initialization: Optional[PromptInitialization] = None
    initialize: Optional[Callable[[torch.nn.Module, DataLoader], None]] = None
    starts_from_words: bool = True
    names_new_classes: bool = True
    look: Mapping[str, Any] = field(default_factory=dict)
    emphasized: bool = False

    def apply(self, ground: BaseGround) -> Learner:
        """
        Apply the method to a model.

        Args:
            ground: the model and the classes.

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
        fields = {**self.fields, **ground.fields}
        if fields.get("class_specific_context") is True:
            fields.setdefault("num_classes", len(ground.class_names))
        try:
            config = self.adapter(**fields)
        except TypeError as error:  # a dataclass raises this for an unknown field
            raise ValueError(
                f"--method_kwargs {ground.fields} do not fit the config of method {self.name}: {error}. "
                f"Give fields of {self.adapter.__name__}."
            ) from error
        learner = ground.add_adapter(config, self.starts_from_words)
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
