"""Who is trained on what and tested on what."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from .. import demo
from .arguments import TRANSFER_PROTOCOLS, Arguments
from .data.catalogue import CROSS_DATASET_TARGETS, DOMAIN_GENERALISATION_TARGETS
from .data.draws import Drawn, subset
from .data.sampling import base_new_split
from .data.sources import FewShotData, load_named


if TYPE_CHECKING:
    from datasets import Dataset


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


def target_names(arguments: Arguments) -> list[str]:
    """
    The data sets that are tested on without training.

    Raises:
        ValueError: if there is none.
    """
    if arguments.protocol not in TRANSFER_PROTOCOLS:
        return []
    if arguments.targets is not None:
        names = [name.strip() for name in arguments.targets.split(",") if name.strip()]
    elif arguments.dataset in demo.STYLES:
        names = list(demo.STYLES)
    elif arguments.protocol == "cross-dataset":
        names = list(CROSS_DATASET_TARGETS)
    else:
        names = list(DOMAIN_GENERALISATION_TARGETS)
    names = [name for name in names if arguments.targets is not None or name != arguments.dataset]
    if not names:
        raise ValueError(f"--targets {arguments.targets!r} names no data set.")
    return names


def lay_out(arguments: Arguments, data: FewShotData, drawn: Drawn) -> Task:
    """
    The task of the arguments' protocol: few-shot (CoOp, arXiv 2109.01134, section 4.1), base-to-new, cross-dataset
    (CoCoOp, arXiv 2203.05557, sections 4.1 and 4.2) or domain-generalisation (CoOp, section 4.2).

    With `evaluate_on="validation"` the training classes' validation pictures are all that is tested on.

    Raises:
        ValueError: if a target cannot be loaded, or there are no validation pictures to evaluate on.
    """
    names, train, validation = data.class_names, drawn.train, drawn.validation
    tests = {}
    if arguments.protocol == "base-to-new":
        base, new = base_new_split(range(len(names)))
        for name, classes in (("base", base), ("new", new)):
            tests[name] = TestSet(subset(drawn.test, classes), [names[label] for label in classes], data.template)
        train, validation = subset(train, base), subset(validation, base)
        names = tests["base"].class_names
    else:
        tests["test" if arguments.protocol == "few-shot" else data.name] = TestSet(drawn.test, names, data.template)
    if arguments.evaluate_on == "validation":
        if len(validation) == 0:
            raise ValueError(f"{data.name} has no pictures left to validate on: lower --shots {arguments.shots}.")
        return Task(train, validation, names, {"validation": TestSet(validation, names, data.template)})
    for name in target_names(arguments):
        if name in tests:
            raise ValueError(f"--targets name {name!r} twice, or the data trained on.")
        target = load_named(name, arguments.coop_root)
        pictures = target.test if target.test is not None else target.train
        tests[name] = TestSet(pictures, target.class_names, target.template)
    return Task(train, validation, names, {name: test for name, test in tests.items() if len(test.pictures)})


def summarise(arguments: Arguments, metrics: Mapping[str, Optional[Mapping[str, Any]]]) -> dict[str, Optional[float]]:
    """
    The numbers a protocol is known by, in percent; None where there is nothing to compute them from.

    Args:
        arguments: of the run.
        metrics: by test set, the training data's first; None for one whose classes the method cannot name.
    """
    accuracies = [None if metric is None else metric["accuracy"] for metric in metrics.values()]
    if arguments.evaluate_on == "validation" or arguments.protocol == "few-shot":
        return {"accuracy": accuracies[0] if accuracies else None}
    if arguments.protocol == "base-to-new":
        known = None not in accuracies and len(accuracies) == 2
        harmonic_mean = statistics.harmonic_mean(accuracies) if known else None
        return {**dict(zip(metrics, accuracies)), "harmonic_mean": harmonic_mean}
    names = target_names(arguments)
    targets = [accuracy for name, accuracy in zip(metrics, accuracies) if name in names]
    source = [accuracy for name, accuracy in zip(metrics, accuracies) if name not in names]
    mean = None if None in targets else statistics.mean(targets)
    return {"source": source[0] if source else None, "mean_of_targets": mean}
