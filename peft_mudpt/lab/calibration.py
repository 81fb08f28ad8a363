"""Calibrates the classifier of a run on validation pictures, and measures on test pictures whether that holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Optional

import torch

from ..calibration.calibration import Calibration
from ..calibration.conformal import least_pictures
from ..calibration.reliability import Reliability, measure_reliability
from ..calibration.temperature import softmax


COVERAGES = (0.9, 0.95, 0.99)  # of the sets that are tested


def measured(
    logits: torch.Tensor, labels: Sequence[int], calibration: Optional[Calibration], same_classes: bool = True
) -> dict[str, Any]:
    """
    Measure on test pictures how far probabilities can be trusted.

    Args:
        logits: the logits (N, C) of N test pictures.
        labels: their class indices.
        calibration: what the validation pictures told; None: nothing.
        same_classes: whether the classes of the test are those of the calibration. Sets are tested for them only.

    Returns:
        The fields of `metrics.calibration` in `result.json`: the reliability `before` the temperature and `after` it,
        the `temperature`, and the `sets`.
    """
    temperature = None if calibration is None else calibration.temperature
    found = logits.double()
    return {
        "temperature": temperature,
        "before": _as_dict(measure_reliability(found.softmax(dim=-1), labels)),
        "after": None if temperature is None else _as_dict(measure_reliability(softmax(found, temperature), labels)),
        "sets": _tested_sets(found, labels, calibration) if calibration is not None and same_classes else [],
    }


def _as_dict(found: Reliability) -> dict[str, Any]:
    percent = {"error": 100 * found.error, "error_by_chance": 100 * found.error_by_chance}
    return {**percent, **asdict(found)}


def _tested_sets(logits: torch.Tensor, labels: Sequence[int], calibration: Calibration) -> list[dict[str, float]]:
    """How often sets hold the label, and how large they are, for each of `COVERAGES` for which there are pictures."""
    tested = []
    for coverage in COVERAGES:
        if calibration.pictures < least_pictures(coverage):
            continue
        inside = calibration.sets(coverage)(logits)  # (N, C)
        held = inside.gather(1, torch.tensor(labels)[:, None])  # (N, 1)
        size = inside.sum(dim=-1).double()
        tested.append(
            {
                "coverage": coverage,
                "held": 100 * held.double().mean().item(),
                "classes": size.mean().item(),
                "empty": 100 * (size == 0).double().mean().item(),
            }
        )
    return tested


def error_in_words(reliability: Mapping[str, Any]) -> str:
    """
    Say whether a calibration error is more than chance explains.

    Args:
        reliability: the field `before` or `after` of `metrics.calibration`.

    Returns:
        The comparison, such as "as good as 185 pictures can show: perfect probabilities would have 8.4 %".
    """
    bins = Reliability(*(reliability[field] for field in ("pictures", "confidence", "accuracy")))
    seen, perfect = sum(bins.pictures), "perfect probabilities would have"
    by_chance = f"{reliability['error_by_chance']:.1f} %"
    if not bins.is_beyond_chance:
        return f"as good as {seen:,} pictures can show: {perfect} {by_chance}"
    sure, right = (
        sum(number * (part or 0) for number, part in zip(bins.pictures, parts)) / seen
        for parts in (bins.confidence, bins.accuracy)
    )
    return f"{perfect} {by_chance}; these are {100 * sure:.1f} % sure on average, and right in {100 * right:.1f} %"


def probabilities_in_words(temperature: Optional[float]) -> str:
    """
    Say whether probabilities are calibrated.

    Args:
        temperature: what their logits are divided by; None: nothing.

    Returns:
        A sentence.
    """
    if temperature is None:
        return "The probabilities are not calibrated."
    return f"The probabilities are calibrated, at temperature {temperature:.2f}."


def note_on_calibration(found: Mapping[str, Any]) -> list[str]:
    """
    Say why calibration made the probabilities of other pictures than those of the run worse, if it did.

    Args:
        found: what `measured` found on these pictures.

    Returns:
        The note; none if it did not.
    """
    before, after = found["before"], found["after"]
    if after is None or round(after["error"], 1) <= round(before["error"], 1):
        return []
    return [
        "calibration makes the probabilities of these pictures worse, because the temperature was fitted on others: "
        "the validation pictures of the run"
    ]


def calibration_lines(metrics: Mapping[str, Optional[Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """
    Say in words how far the probabilities can be trusted. Of the sets, it names those of the first coverage above the
    accuracy.

    Args:
        metrics: metrics by test set.

    Returns:
        Names and numbers.
    """
    lines = []
    for name, of_test in metrics.items():
        found = (of_test or {}).get("calibration")
        if not found:
            continue
        on = "" if len(metrics) == 1 else f" on {name}"
        before, after = found["before"], found["after"]
        errors = f"{before['error']:.1f} %"
        if after is not None:
            errors += f", calibrated {after['error']:.1f} % (temperature {found['temperature']:.2f})"
        lines.append(("calibration error", f"{errors}{on}; {error_in_words(after or before)}"))
        # of a coverage below the accuracy, some sets are empty
        useful = [sets for sets in found["sets"] if 100 * sets["coverage"] > of_test["accuracy"]]
        for tested in (useful or found["sets"][-1:])[:1]:
            lines.append((f"sets at {100 * tested['coverage']:.0f} %", _set_in_words(tested, of_test, on)))
    return lines


def hold_too_many(tested: Mapping[str, float], classes: int) -> bool:
    """
    Tell whether sets of classes are too large to be of use.

    Args:
        tested: an element of the field `sets` of `metrics.calibration`.
        classes: the number of all classes.

    Returns:
        True if a set holds more than two classes, and more than half of all, on average.
    """
    return tested["classes"] > max(2, classes / 2)


def _set_in_words(tested: Mapping[str, float], metrics: Mapping[str, Any], on: str) -> str:
    """How often sets of classes hold the right one, and how large they are."""
    size, classes = tested["classes"], len(metrics["classes"])
    words = f"{tested['held']:.1f} % hold the right class{on}; {size:.2f} of {classes:,} classes on average"
    return f"{words}, too many to be of use" if hold_too_many(tested, classes) else words
