"""Who is trained on what and tested on what."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from .. import demo
from .data.catalogue import CROSS_DATASET_TARGETS, DOMAIN_GENERALIZATION_TARGETS
from .data.draws import Drawn, subset
from .data.sampling import base_new_split
from .data.sources import DataOptions, FewShotData, load_named
from .flags import Count, Options, flag


if TYPE_CHECKING:
    from datasets import Dataset


TRANSFER_PROTOCOLS = ("cross-dataset", "domain-generalization")  # tested on data that is not trained on
PROTOCOLS = ("few-shot", "base-to-new", *TRANSFER_PROTOCOLS)


@dataclass(frozen=True)
class ProtocolOptions(Options):
    """Who is trained on what and tested on what."""

    protocol: str = flag("few-shot", "Which classes and data sets are trained and tested on.", choices=PROTOCOLS)
    shots: Count = flag(16, "Training pictures per class.")
    seed: int = flag(1, "Seed of the draw, of the weights and of the batches.")
    targets: Optional[str] = flag(
        None,
        "What to test on without training, for cross-dataset and domain-generalization: names as for --dataset, "
        "between commas. None: CoOp's; in the embedded world all other styles.",
    )
    evaluate_on: str = flag(
        "test", "validation: to choose hyper-parameters; never looks at a test set.", choices=("test", "validation")
    )

    def __post_init__(self):
        super().__post_init__()
        if self.targets is not None and self.protocol not in TRANSFER_PROTOCOLS:
            raise ValueError(f"--targets goes with {' or '.join(TRANSFER_PROTOCOLS)}, not with {self.protocol}.")


@dataclass(frozen=True)
class TestSet:
    """Pictures with labels 0..C-1, the names of these classes, and the data set's own text for a class."""

    __test__ = False  # pytest takes the name for a test

    pictures: Dataset
    class_names: list[str]
    template: str


@dataclass(frozen=True)
class Task:
    """What is trained on, what hyper-parameters may be chosen on, and what is tested on, by name."""

    train: Dataset
    validation: Dataset
    class_names: list[str]
    tests: dict[str, TestSet]


def target_names(options: ProtocolOptions, origin: DataOptions) -> list[str]:
    """
    The data sets that are tested on without training.

    Args:
        options: whose protocol is meant.
        origin: what is trained on.

    Raises:
        ValueError: if there is none.
    """
    if options.protocol not in TRANSFER_PROTOCOLS:
        return []
    if options.targets is not None:
        names = [name.strip() for name in options.targets.split(",") if name.strip()]
        if not names:
            raise ValueError(f"--targets {options.targets!r} names no data set.")
        return names
    for name in ("train_dir", "dataset_name"):
        if getattr(origin, name) is not None:
            raise ValueError(f"{options.protocol} from --{name} needs --targets.")
    if origin.dataset in demo.STYLES:
        known = tuple(demo.STYLES)
    else:
        known = CROSS_DATASET_TARGETS if options.protocol == "cross-dataset" else DOMAIN_GENERALIZATION_TARGETS
    return [name for name in known if name != origin.dataset]


def lay_out(options: ProtocolOptions, data: FewShotData, drawn: Drawn) -> Task:
    """
    The task of a protocol: few-shot (CoOp, arXiv 2109.01134, section 4.1), base-to-new, cross-dataset (CoCoOp, arXiv
    2203.05557, sections 4.1 and 4.2) or domain-generalization (CoOp, section 4.2).

    With `evaluate_on="validation"` the task tests on nothing but the training classes' validation pictures.

    Args:
        options: the protocol.
        data: what the items were drawn from.
        drawn: the items.

    Raises:
        ValueError: if a target cannot be loaded, or there are no validation pictures to evaluate on.
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
            raise ValueError(f"{data.name} has no pictures left to validate on: lower --shots {options.shots}.")
        return Task(train, validation, names, {"validation": TestSet(validation, names, data.template)})
    for name in target_names(options, data.origin):
        if name in tests:
            raise ValueError(f"--targets name {name!r} twice, or the data trained on.")
        target = load_named(name, data.origin.coop_root)
        pictures = target.test if target.test is not None else target.train
        tests[name] = TestSet(pictures, target.class_names, target.template)
    return Task(train, validation, names, {name: test for name, test in tests.items() if len(test.pictures)})


def summarize(
    options: ProtocolOptions, metrics: Mapping[str, Optional[Mapping[str, Any]]], origin: DataOptions
) -> dict[str, Optional[float]]:
    """
    The numbers a protocol is known by, in percent; None where there is nothing to compute them from.

    Args:
        options: the protocol.
        metrics: by test set, the training data's first; None for one whose classes the method cannot name.
        origin: what was trained on.
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
