"""Says whether the probabilities of a saved classifier are calibrated, and why not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from ..classifier.class_texts import active_config
from ..classifier.classifier import MuDPTClassifier
from ..classifier.prediction import PictureClassifier
from ..classifier.saving import read_classes
from .calibration import probabilities_in_words
from .run_classifier import result_of


def check_calibration(classifier: PictureClassifier, adapter: str | os.PathLike, flags: Sequence[str]) -> None:
    """
    Refuse flags that only a calibrated classifier can answer.

    Args:
        classifier: what `load_classifier` has loaded.
        adapter: the folder or the Hub id that it was loaded from.
        flags: the flags that were given.

    Raises:
        ValueError: if there are such flags and no calibration. The message says whether the run was calibrated for
            other classes or texts, or not at all.
    """
    if not flags or classifier.calibration is not None:
        return
    missing = _why_no_calibration(classifier, adapter)
    raise ValueError(f"{' and '.join(flags)} cannot be answered, because {missing.reason}. {missing.remedy}.")


def describe_probabilities(
    classifier: PictureClassifier, adapter: str | os.PathLike, temperature: Optional[float], asked: Optional[bool]
) -> str:
    """
    Say whether the probabilities of a classifier are calibrated, and why not.

    Args:
        classifier: what `load_classifier` has loaded.
        adapter: the folder or the Hub id that it was loaded from.
        temperature: the temperature of the probabilities; None: they are not calibrated.
        asked: whether the user asked for calibrated ones; None: left it to the classifier.

    Returns:
        A sentence.
    """
    said = probabilities_in_words(temperature)
    if temperature is not None or asked is False:
        return said
    if classifier.calibration is not None:
        reason = "the validation pictures of the run determine no temperature"
    else:
        reason = _why_no_calibration(classifier, adapter).reason
    return f"{said.removesuffix('.')}, because {reason}."


class _Missing(NamedTuple):
    """Why a classifier has no calibration, and how it gets one."""

    reason: str
    remedy: str


def _why_no_calibration(classifier: PictureClassifier, adapter: str | os.PathLike) -> _Missing:
    if _has_calibration(classifier, adapter):
        return _Missing(
            "the calibration of the run is for its own classes and texts, and others are asked for",
            "Leave out --classes and --template",
        )
    return _Missing(
        "no validation pictures were kept to calibrate probabilities on",
        "Train again with --validation_shots 2, which keeps two pictures of each class from training",
    )


def _has_calibration(classifier: PictureClassifier, adapter: str | os.PathLike) -> bool:
    """Whether a run was calibrated, for any classes and texts."""
    if isinstance(classifier, MuDPTClassifier) and (config := active_config(classifier.model)) is not None:
        return config.calibration is not None
    known = read_classes(Path(adapter))
    return result_of(adapter).get("calibration") is not None or (known is not None and known.calibration is not None)
