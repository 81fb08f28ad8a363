"""What the stages of an experiment take and return: an `Experiment`, a `Plan` and an `Outcome`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Optional, Union

import torch
from accelerate import Accelerator

from ..classifier.class_texts import ClassTexts
from ..classifier.prediction import PictureClassifier
from ..layer import layer_of
from .adversarial import AdversarialOptions
from .backbone import EMBEDDED, Backbone, BackboneOptions
from .data.class_texts import identify_descriptions, identify_templates
from .data.draws import Drawn
from .data.few_shot_data import FewShotData
from .data.options import DataOptions
from .environment import RandomState
from .identity import PICTURES, PROCESSES, pictures_of, what_was_asked
from .learner import Learner
from .method import Method
from .methods import MethodOptions
from .protocols import ProtocolOptions, Task, summarize
from .recipe import Recipe, TrainingOptions
from .robustness import RobustnessOptions
from .training.loop import Progress


@dataclass(frozen=True)
class Experiment:
    """
    The description of a run.

    Args:
        data: a data set, such as `load_folders("my_pictures")`, or the options that name one.
        method: name of a record of `methods.METHODS`, or of a preset.
        model_name_or_path: the CLIP: a Hub id, a folder, or "embedded".
        method_kwargs: fields of the method's config that replace its defaults.
        template: text of a class, with `{}` for its name; None: the default of the method or the data set.
        protocol: which classes and data sets are used for training and testing; by default few-shot with 16 pictures
            of each class.
        training: options of training and testing; by default those of the method.
        model_revision: branch, tag or commit of the CLIP's repository on the Hub; None: the main branch.
        templates: several texts of a class, for zero-shot CLIP and for methods without text prompts; None: one
            template.
        descriptions: further texts of each class, by class name, for the same.
        adversarial: options of learning from attacked pictures; by default those of the method.
        robustness: options of testing on attacked pictures; by default none is attacked.
    """

    data: Union[FewShotData, DataOptions]
    method: str = "mudpt"
    model_name_or_path: str = EMBEDDED
    method_kwargs: Mapping[str, Any] = field(default_factory=dict)
    template: Optional[str] = None
    protocol: ProtocolOptions = ProtocolOptions()
    training: TrainingOptions = TrainingOptions()
    model_revision: Optional[str] = None
    templates: Optional[Sequence[str]] = None
    descriptions: Optional[Mapping[str, Sequence[str]]] = None
    adversarial: AdversarialOptions = AdversarialOptions()
    robustness: RobustnessOptions = RobustnessOptions()

    @property
    def class_texts(self) -> Optional[ClassTexts]:
        """
        The texts of classes for a CLIP without text prompts; None: the template of each data set.

        Raises:
            ValueError: if they are no texts (see `ClassTexts.given`).
        """
        templates = self.template if self.templates is None else self.templates
        return None if templates is self.descriptions is None else ClassTexts.given(templates, self.descriptions)

    @property
    def backbone(self) -> BackboneOptions:
        """The options that name the CLIP."""
        return BackboneOptions(self.model_name_or_path, self.model_revision)

    @property
    def asked(self) -> dict[str, Any]:
        """The options that determine the result, by flag (see `identity.what_was_asked`)."""
        method_kwargs = json.dumps(dict(self.method_kwargs), ensure_ascii=False) if self.method_kwargs else None
        return what_was_asked(
            self.backbone,
            MethodOptions(
                self.method,
                method_kwargs,
                self.template,
                identify_templates(self.templates),  # the content, wherever the file is
                identify_descriptions(self.descriptions),
            ),
            self.data if isinstance(self.data, DataOptions) else self.data.origin,
            self.protocol,
            self.training,
            self.adversarial,
            self.robustness,
        )

    def launched(self, mixed_precision: str) -> Experiment:
        """
        Fill in the precision of the launcher if the options name none, because it determines the result too.

        Args:
            mixed_precision: the precision that the launcher sets, as in accelerate.
        """
        if self.training.mixed_precision is not None or mixed_precision == "no":
            return self
        return replace(self, training=replace(self.training, mixed_precision=mixed_precision))

    def identity(self, selection: Selection, processes: int) -> dict[str, Any]:
        """
        Everything that determines the result (see `identity.as_identity`).

        Args:
            selection: the pictures of the run.
            processes: number of processes that share each optimizer step.
        """
        return {**self.asked, PROCESSES: processes, PICTURES: selection.fingerprints}


@dataclass(frozen=True)
class Selection:
    """
    The pictures of a run.

    Args:
        data: the data set.
        drawn: the pictures drawn from the data set.
        task: the training and test sets of the protocol.
    """

    data: FewShotData
    drawn: Drawn
    task: Task

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """The fingerprints of the pictures (see `identity.pictures_of`)."""
        return pictures_of(self.task)


@dataclass(frozen=True)
class Plan:
    """
    A run that was checked and can be executed once. It has written no file yet.

    Args:
        experiment: the description of the run.
        selection: the pictures of the run.
        method: the method that adapts the CLIP.
        backbone: the CLIP.
        learner: the CLIP to which the method was applied, not yet trained.
        classifier: the classifier of the learner, which is trained.
        recipe: how it is trained; None: the method trains nothing.
        zero_shot: metrics of the plain CLIP, by test set (see `evaluation.evaluate`).
        test_features: image features of the plain CLIP, by test set, if training does not change them (see
            `evaluation.evaluate_task`); else None.
        accelerator: the accelerator of the run.
        random_state: state of the global random number generators when training begins.
        started: time at which `prepare` started, in seconds of `time.perf_counter`.
    """

    experiment: Experiment
    selection: Selection
    method: Method
    backbone: Backbone
    learner: Learner
    classifier: PictureClassifier
    recipe: Optional[Recipe]
    zero_shot: dict[str, Any]
    test_features: Optional[dict[str, torch.Tensor]]
    accelerator: Accelerator
    random_state: RandomState
    started: float

    @property
    def data(self) -> FewShotData:
        """The data set."""
        return self.selection.data

    @property
    def task(self) -> Task:
        """The training and test sets of the protocol."""
        return self.selection.task

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the result (see `identity.as_identity`)."""
        return self.experiment.identity(self.selection, self.accelerator.num_processes)

    @property
    def given_texts(self) -> Optional[ClassTexts]:
        """
        The texts of classes for the learner, after its text prompts if it has some; None: the template of each data
        set.
        """
        return self.learner.class_texts(self.experiment.class_texts)

    @property
    def names_new_classes(self) -> bool:
        """True if the learner can name classes that it was not trained on."""
        layer = layer_of(self.learner.model)
        return self.method.names_new_classes and (layer is None or not layer.num_class_contexts)

    @property
    def class_texts(self) -> ClassTexts:
        """The texts of the training classes for the learner, after its text prompts if it has some."""
        return self.given_texts or ClassTexts((self.data.template,))

    @property
    def anchor_texts(self) -> ClassTexts:
        """The texts of classes for the anchors: those of the flags, if there are several, or else the method's."""
        given = self.experiment.class_texts
        if given is not None and given.template is None:
            return given
        return ClassTexts.given(self.method.anchor_templates or [self.learner.template or self.data.template])

    @property
    def template_after_prompts(self) -> Optional[str]:
        """The text of a class that follows the text prompts; None if classes have several texts."""
        return self.class_texts.template

    @property
    def trainable_parameters(self) -> int:
        """Number of parameters that are learned."""
        return sum(p.numel() for p in self.learner.model.parameters() if p.requires_grad)

    def summary(self, metrics: dict[str, Any]) -> dict[str, Optional[float]]:
        """
        Compute the summary of the protocol, in percent (see `protocols.summarize`).

        Args:
            metrics: metrics by test set.
        """
        return summarize(self.experiment.protocol, metrics, self.data.origin)


@dataclass(frozen=True)
class Outcome:
    """
    The outcome of a run. The model is not saved yet.

    Args:
        plan: the plan of the run; its learner is now trained.
        metrics: metrics of the trained learner, by test set; None for a test set whose classes the method cannot name.
        progress: steps, loss and time of training.
        peak_memory_bytes: peak memory of training, in bytes.
        robustness: what `robustness.measure_robustness` found; None: no picture was attacked.
    """

    plan: Plan
    metrics: dict[str, Any]
    progress: Progress
    peak_memory_bytes: int
    robustness: Optional[list[dict[str, Any]]] = None

    @property
    def summary(self) -> dict[str, Optional[float]]:
        """The summary of the protocol, in percent (see `protocols.summarize`)."""
        return self.plan.summary(self.metrics)
