"""The evaluation protocols: which classes and data sets are used for training and which for testing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Optional

from .. import demo
from .data.catalogue import CROSS_DATASET_TARGETS, DOMAIN_GENERALIZATION_TARGETS
from .data.draws import Drawn, subset
from .data.few_shot_data import FewShotData
from .data.options import DataOptions
from .data.sampling import base_new_split
from .data.sources import load_named
from .flags import Count, OptionalCount, Options, flag


if TYPE_CHECKING:
    from datasets import Dataset


TRANSFER_PROTOCOLS = (
    "cross-dataset",
    "domain-generalization",
)  # they also test on other data sets
PROTOCOLS = ("few-shot", "base-to-new", *TRANSFER_PROTOCOLS)


@dataclass(frozen=True)
class FewShotOptions(Options):
    """Options of the few-shot protocol, which every task has. `--help` describes each."""

    title: ClassVar[str] = "which pictures are for training and testing"

    protocol: str = flag("few-shot", "Which pictures are used for training and testing.", choices=("few-shot",))
    shots: Count = flag(16, "Training pictures per class.")
    seed: int = flag(1, "Seed of the draw, the initial weights and the batches.")
    evaluate_on: str = flag(
        "test",
        "validation: evaluate on validation pictures, to choose hyper-parameters; the test pictures are not read.",
        choices=("test", "validation"),
    )


@dataclass(frozen=True)
class ProtocolOptions(FewShotOptions):
    """Options of the evaluation protocols of classification. `--help` describes each."""

    protocol: str = flag(
        "few-shot", "Which classes and data sets are used for training and testing.", choices=PROTOCOLS
    )
    targets: Optional[str] = flag(
        None,
        "Data sets for testing only, in cross-dataset and domain-generalization: comma-separated names as for "
        "--dataset. None: those of CoOp, or all other styles of the embedded world.",
    )
    validation_shots: OptionalCount = flag(
        None,
        "Validation pictures per class, which are never used for training; probabilities are calibrated on them. "
        "None: at most 4, and without a validation split only those that training leaves over.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.targets is not None and self.protocol not in TRANSFER_PROTOCOLS:
            raise ValueError(
                f"--targets needs --protocol {' or '.join(TRANSFER_PROTOCOLS)}; found {self.protocol}. Leave it out."
            )


@dataclass(frozen=True)
class TestSet:
    """
    The pictures and the classes of one test.

    Args:
        pictures: examples with labels 0..C-1.
        class_names: the C classes; the position of a name is its label.
        template: the text of a class that the data set provides, with `{}` for its name; empty for detection.
    """

    __test__ = False  # pytest would collect the class because of its name

    pictures: Dataset
    class_names: list[str]
    template: str = ""


@dataclass(frozen=True)
class Task:
    """
    The training, validation and test sets that a protocol makes of the data.

    Args:
        train: training pictures.
        validation: pictures for the choice of hyper-parameters.
        class_names: the training classes; the position of a name is its label.
        tests: test sets by name.
    """

    train: Dataset
    validation: Dataset
    class_names: list[str]
    tests: dict[str, TestSet]

    @property
    def calibration_pictures(self) -> Optional[Dataset]:
        """The validation pictures, unless there are none, or the task tests on them; then None."""
        tested = any(test.pictures is self.validation for test in self.tests.values())
        return None if tested or len(self.validation) == 0 else self.validation


def target_names(options: ProtocolOptions, origin: DataOptions) -> list[str]:
    """
    List the data sets that are used for testing only.

    Args:
        options: the protocol.
        origin: the options that name the training data.

    Returns:
        The names of these data sets; empty for the protocols few-shot and base-to-new.

    Raises:
        ValueError: if the protocol needs `options.targets`, but they are missing or empty.
    """
    if options.protocol not in TRANSFER_PROTOCOLS:
        return []
    if options.targets is not None:
        names = [name.strip() for name in options.targets.split(",") if name.strip()]
        if not names:
            raise ValueError(f"--targets {options.targets!r} names no data set; give comma-separated names.")
        return names
    for name in ("train_dir", "dataset_name"):
        if getattr(origin, name) is not None:
            raise ValueError(f"--protocol {options.protocol} with --{name} needs --targets; name the test data sets.")
    if origin.dataset in demo.STYLES:
        known = tuple(demo.STYLES)
    else:
        known = CROSS_DATASET_TARGETS if options.protocol == "cross-dataset" else DOMAIN_GENERALIZATION_TARGETS
    return [name for name in known if name != origin.dataset]


def lay_out(options: ProtocolOptions, data: FewShotData, drawn: Drawn) -> Task:
    """
    Assign the drawn pictures to the training and test sets of a protocol: few-shot (CoOp, arXiv 2109.01134, section
    4.1), base-to-new, cross-dataset (CoCoOp, arXiv 2203.05557, sections 4.1 and 4.2) or domain-generalization (CoOp,
    section 4.2).

    With `evaluate_on="validation"`, the only test set consists of the validation pictures of the training classes.

    Args:
        options: the protocol.
        data: the data set.
        drawn: the pictures drawn from the data set.

    Returns:
        The task. Test sets without pictures are left out.

    Raises:
        ValueError: if a data set of `target_names` cannot be loaded, occurs twice or is the training data set, or if
            there are no validation pictures to evaluate on.
    """
    names, train, validation = data.class_names, drawn.train, drawn.validation
    tests = {}
    if options.protocol == "base-to-new":
        base, new = base_new_split(range(len(names)))
        for name, classes in (("base", base), ("new", new)):
            tests[name] = TestSet(subset(drawn.test, classes), [names[label] for label in classes], data.template)
        train, validation = subset(train, base), subset(validation, base)
        names = tests["base"].class_names
    else:
        tests["test" if options.protocol == "few-shot" else data.name] = TestSet(drawn.test, names, data.template)
    if options.evaluate_on == "validation":
        if len(validation) == 0:
            raise ValueError(
                f"No training class of {data.name} has pictures for validation, because none has two pictures besides "
                "its test pictures. Add pictures, or do not search (--learning_rate_factors 1)."
            )
        return Task(train, validation, names, {"validation": TestSet(validation, names, data.template)})
    for name in target_names(options, data.origin):
        if name in tests:
            raise ValueError(f"--targets names {name!r} twice, or it is the training data set; remove it.")
        target = load_named(name, data.origin.coop_root)
        pictures = target.test if target.test is not None else target.train
        tests[name] = TestSet(pictures, target.class_names, target.template)
    return Task(train, validation, names, {name: test for name, test in tests.items() if len(test.pictures)})


def summarize(
    options: ProtocolOptions, metrics: Mapping[str, Optional[Mapping[str, Any]]], origin: DataOptions
) -> dict[str, Optional[float]]:
    """
    Compute the numbers that papers report for a protocol.

    Args:
        options: the protocol.
        metrics: metrics by test set; the test set of the training data comes first. None for a test set whose classes
            the method cannot name.
        origin: the options that name the training data.

    Returns:
        The numbers in percent, by name: `accuracy`; or `base`, `new` and `harmonic_mean`; or `source` and
        `mean_of_targets`. None for a number that cannot be computed from the metrics.
    """
    accuracies = {name: None if metric is None else metric["accuracy"] for name, metric in metrics.items()}
    if options.evaluate_on == "validation" or options.protocol == "few-shot":
        return {"accuracy": next(iter(accuracies.values()), None)}
    if options.protocol == "base-to-new":
        known = None not in accuracies.values() and len(accuracies) == 2
        harmonic_mean = statistics.harmonic_mean(accuracies.values()) if known else None
        return {**accuracies, "harmonic_mean": harmonic_mean}
    names = target_names(options, origin)
    targets = [accuracy for name, accuracy in accuracies.items() if name in names]
    source = next((accuracy for name, accuracy in accuracies.items() if name not in names), None)
    return {"source": source, "mean_of_targets": None if None in targets else statistics.mean(targets)}


def metrics_behind(name: str, metrics: Mapping[str, Optional[Mapping[str, Any]]]) -> Optional[Mapping[str, Any]]:
    """
    Find the test set on which a number of a summary was measured.

    Args:
        name: the name of the number (see `summarize`).
        metrics: metrics by test set, as for `summarize`.

    Returns:
        The metrics of that test set; None if the number is a mean over test sets, or was not measured.
    """
    if name in ("accuracy", "source"):
        return next(iter(metrics.values()), None)
    return metrics.get(name)


def number_of_pictures(metrics: Mapping[str, Any]) -> int:
    """
    Count the pictures of a test set.

    Args:
        metrics: the metrics of the test set (see `evaluation.metrics_of`).

    Returns:
        The number of pictures that were tested.
    """
    return sum(seen for _, seen in metrics["classes"].values())


def number_of_right(metrics: Mapping[str, Any]) -> int:
    """
    Count the pictures of a test set whose class was predicted.

    Args:
        metrics: the metrics of the test set (see `evaluation.metrics_of`).

    Returns:
        The number of pictures that were classified correctly.
    """
    return sum(right for right, _ in metrics["classes"].values())
