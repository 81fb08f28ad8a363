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
            errors += f" -> {after['error']:.1f} % at temperature {found['temperature']:.2f}"
        by_chance = (after or before)["error_by_chance"]
        lines.append(("calibration error", f"{errors}{on}; by chance {by_chance:.1f} %"))
        # of a coverage below the accuracy, some sets are empty
        useful = [sets for sets in found["sets"] if 100 * sets["coverage"] > of_test["accuracy"]]
        for tested in (useful or found["sets"][-1:])[:1]:
            words = (
                f"hold the class of {tested['held']:.1f} % of pictures{on}, {tested['classes']:.2f} classes on average"
            )
            lines.append((f"sets at {100 * tested['coverage']:.0f} %", words))
    return lines
