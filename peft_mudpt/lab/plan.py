"""What the stages of a run take and return, whatever its task: an experiment, a selection, a plan and an outcome."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Optional, TypeVar

from accelerate import Accelerator

from .backbone import EMBEDDED, BackboneOptions
from .data.draws import Drawn
from .environment import RandomState
from .identity import MODEL_FINGERPRINTS, PICTURES, PROCESSES, pictures_of
from .learner import Learner
from .method import Method
from .methods import find_method
from .protocols import FewShotOptions, Task
from .recipe import Recipe
from .training_options import LoopOptions


if TYPE_CHECKING:
    from .training.checkpoints import Checkpoints
    from .training.loop import Progress

Described = TypeVar("Described", bound="BaseExperiment")


@dataclass(frozen=True)
class Selection:
    """
    The pictures of a run.

    Args:
        data: the data set.
        drawn: the pictures drawn from the data set.
        task: the training and test sets of the protocol.
    """

    data: Any
    drawn: Drawn
    task: Task

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """The fingerprints of the pictures (see `identity.pictures_of`)."""
        return pictures_of(self.task)


def picture_lines(selection: Selection, protocol: FewShotOptions) -> dict[str, str]:
    """
    Say how many pictures a run keeps from training, and how many of the user's own it does not use.

    Args:
        selection: the pictures of the run.
        protocol: the options by which they were selected.

    Returns:
        What is printed, by name. Pictures of a known data set that are not used are left out, because its protocol
        leaves them over.
    """
    task, origin, unused = selection.task, selection.data.origin, selection.drawn.unused
    validation = task.calibration_pictures
    lines = {} if validation is None else {"validation pictures": f"{len(validation):,}"}
    lines["test pictures"] = f"{sum(len(test.pictures) for test in task.tests.values()):,}"
    are_own = origin.train_dir is not None or origin.dataset_name is not None
    if unused and are_own and protocol.protocol != "base-to-new":  # which trains on half of the classes
        number = "1 picture" if unused == 1 else f"{unused:,} pictures"
        lines["not used"] = f"{number}, because --shots is {protocol.shots} (a larger number trains on more)"
    return lines


@dataclass(frozen=True)
class BaseExperiment(ABC):
    """
    The description of a run. A subclass knows one task, such as the classification of images.

    Args:
        data: a data set, or the options that name one.
        method: name of a method of the task.
        model_name_or_path: the model to adapt: a Hub id, a folder, or "embedded".
        method_kwargs: fields of the method's config that replace its defaults.
        protocol: the number of pictures, the seed, and which pictures are used for training and testing.
        training: options of training and testing.
        model_revision: branch, tag or commit of the model's repository on the Hub; None: the main branch.
    """

    data: Any
    method: str
    model_name_or_path: str = EMBEDDED
    method_kwargs: Mapping[str, Any] = field(default_factory=dict)
    protocol: FewShotOptions = FewShotOptions()
    training: LoopOptions = LoopOptions()
    model_revision: Optional[str] = None

    task: ClassVar[str]  # one of `method.TASKS`

    @property
    @abstractmethod
    def backbone(self) -> BackboneOptions:
        """The options that name the model."""

    @property
    @abstractmethod
    def asked(self) -> dict[str, Any]:
        """The options that determine the result, by flag (see `identity.what_was_asked`)."""

    @abstractmethod
    def loaded(self) -> Any:
        """Load the data set, if `data` names one. Raise a ValueError if it cannot be used."""

    @abstractmethod
    def select(self) -> Selection:
        """Choose the pictures of the run, not yet decoded. Raise a ValueError if the data cannot be used."""

    def check(self) -> None:
        """Raise an error if the experiment cannot run, whatever the data."""
        find_method(self.method, self.task)

    def check_selection(self, selection: Selection) -> None:
        """Raise a ValueError if the options do not fit the selected pictures."""
        return None

    @abstractmethod
    def plan(self, selection: Selection, accelerator: Accelerator, started: float) -> Plan:
        """Apply the method to the model, and test the plain model (see `experiment.prepare`)."""

    @abstractmethod
    def summary_lines(
        self, summary: Mapping[str, Optional[float]], metrics: Mapping[str, Optional[Mapping[str, Any]]]
    ) -> dict[str, str]:
        """The numbers of a summary in words, by name."""

    def calibration_lines(self, metrics: Mapping[str, Optional[Mapping[str, Any]]]) -> list[tuple[str, str]]:
        """Names and numbers of how far the probabilities can be trusted, in words."""
        return []

    def robustness_lines(self, robustness: Optional[Sequence[Mapping[str, Any]]]) -> list[tuple[str, str]]:
        """Names and numbers of what `Plan.measure_robustness` found, in words."""
        return []

    @property
    def found_method(self) -> Method:
        """The record of the method. Raises a ValueError if the task has no such method."""
        return find_method(self.method, self.task)

    def launched(self: Described, mixed_precision: str) -> Described:
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
        contents = {PICTURES: selection.fingerprints, MODEL_FINGERPRINTS: self.backbone.fingerprints()}
        return {**self.asked, PROCESSES: processes, **contents}


@dataclass(frozen=True)
class Plan(ABC):
    """
    A run that was checked and can be executed once. It has written no file yet.

    Args:
        experiment: the description of the run.
        selection: the pictures of the run.
        method: the method that adapts the model.
        backbone: the model to adapt, by name.
        learner: the model to which the method was applied, not yet trained.
        recipe: how it is trained; None: the method trains nothing.
        zero_shot: metrics of the plain model, by test set.
        accelerator: the accelerator of the run.
        random_state: state of the global random number generators when training begins.
        started: time at which `prepare` started, in seconds of `time.perf_counter`.
    """

    experiment: Any
    selection: Selection
    method: Method
    backbone: Any
    learner: Learner
    recipe: Optional[Recipe]
    zero_shot: dict[str, Any]
    accelerator: Accelerator
    random_state: RandomState
    started: float

    @property
    def data(self) -> Any:
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
    def trainable_parameters(self) -> int:
        """Number of parameters that are learned."""
        return sum(p.numel() for p in self.learner.model.parameters() if p.requires_grad)

    @abstractmethod
    def summary(self, metrics: dict[str, Any]) -> dict[str, Optional[float]]:
        """The numbers that papers report, in percent, from the metrics by test set."""

    @abstractmethod
    def lines(self) -> dict[str, str]:
        """What is printed about the run before it starts, by name."""

    def notes(self) -> list[str]:
        """What the user should know before the run starts."""
        return []

    @abstractmethod
    def train(self, checkpoints: Optional[Checkpoints]) -> Progress:
        """Train the learner in place."""

    def calibrate(self) -> None:
        """Measure on held-out pictures how certain the trained learner may be, if the task has such pictures."""
        return None

    @abstractmethod
    def evaluate(self) -> dict[str, Any]:
        """Test the learner: its metrics, by test set; None for a test set whose classes the method cannot name."""

    def measure_robustness(self) -> Optional[list[dict[str, Any]]]:
        """What `robustness.measure_robustness` finds; None: no picture is attacked."""
        return None

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """The fields of the result that only this task has, or that it computes in its own way."""

    @abstractmethod
    def save(self, folder: Path) -> int:
        """Save what belongs to the result in a folder. Returns the size of the learned weights in bytes."""

    @abstractmethod
    def check_it_reloads(self, folder: Path) -> None:
        """Raise a RuntimeError if the saved weights give other outputs than the trained model."""


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

    plan: Any
    metrics: dict[str, Any]
    progress: Progress
    peak_memory_bytes: int
    robustness: Optional[list[dict[str, Any]]] = None

    @property
    def summary(self) -> dict[str, Optional[float]]:
        """The summary of the protocol, in percent (see `Plan.summary`)."""
        return self.plan.summary(self.metrics)
