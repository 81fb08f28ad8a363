"""Tests what a run left, such as an adapter, on another folder of labeled pictures, without training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import torch
from accelerate import Accelerator

from ..classifier.answers import probabilities_of
from ..rules import AT_LEAST_ONE
from .calibration import measured, note_on_calibration
from .data.fingerprints import fingerprints_of
from .data.labeled import LabeledFolder
from .data.loaders import make_loader
from .data.loading import TestPictures, check_pictures
from .environment import keep_freed_memory, versions
from .evaluation import distinct, metrics_of
from .identity import PICTURES
from .intervals import wilson_interval
from .logits import predict_logits
from .protocols import number_of_pictures, number_of_right
from .run_classifier import load_classifier
from .run_folder import read_identity
from .saved_calibration import check_calibration


if TYPE_CHECKING:
    from datasets import Dataset

SEEN = ("training", "validation")  # the pictures of a run that make a test on them too good


class Mistake(NamedTuple):
    """
    A picture whose class was not predicted.

    Attributes:
        picture: its path relative to the folder of the class folders.
        true: its class.
        predicted: the predicted class.
        probability: the probability of the predicted class, from 0 to 1.
    """

    picture: str
    true: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class SavedEvaluation:
    """
    What `evaluate_saved` found.

    Args:
        adapter: the folder or the Hub id that was tested.
        folder: the folder of the pictures.
        class_names: the classes, in the order of the labels. A name that several classes share has the label appended.
        metrics: the metrics of a test set, as in `result.json` (see `schema.FIELDS`).
        mistakes: the pictures whose class was not predicted, the most probable mistake first.
        calibrated: whether the probabilities of the mistakes are calibrated.
        notes: what the user should know about the pictures.
    """

    adapter: str
    folder: str
    class_names: Sequence[str]
    metrics: Mapping[str, Any]
    mistakes: Sequence[Mistake]
    calibrated: bool
    notes: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Everything that was found, the 95 % interval of the accuracy and the versions of packages; fit for JSON."""
        return {
            "adapter": self.adapter,
            "folder": self.folder,
            "class_names": list(self.class_names),
            "metrics": dict(self.metrics),
            "interval": wilson_interval(number_of_right(self.metrics), number_of_pictures(self.metrics)),
            "mistakes": [mistake._asdict() for mistake in self.mistakes],
            "calibrated": self.calibrated,
            "notes": list(self.notes),
            "versions": versions(),
        }


def evaluate_saved(
    adapter: str | os.PathLike,
    folder: str | os.PathLike,
    class_names: Optional[list[str]] = None,
    template: Optional[str] = None,
    model_name_or_path: Optional[str] = None,
    names_file: Optional[str | os.PathLike] = None,
    calibrated: Optional[bool] = None,
    batch_size: int = 64,
    num_workers: Optional[int] = None,
) -> SavedEvaluation:
    """
    Test what a run left, on labeled pictures. Of several processes, each tests a part of the pictures.

    Args:
        adapter: a folder of `examples/fewshot.py`, a folder with `adapter_config.json`, or a Hub id.
        folder: a folder that holds one folder of pictures per class; it may lack some of the classes.
        class_names: the classes; None: those the adapter was trained on (see `run_classifier.load_classifier`).
        template: text of a class that follows the text prompts; None: the text used in training.
        model_name_or_path: the CLIP; None: the one that the adapter or the run names.
        names_file: a file that names the class folders (see `read_class_names`); None: their own names are used.
        calibrated: whether the probabilities of mistakes are calibrated on the validation pictures of the run; None:
            if it had some.
        batch_size: pictures per device and forward pass.
        num_workers: processes that load pictures; None: see `choose_workers`.

    Returns:
        The metrics, the mistakes, and notes.

    Raises:
        ValueError: if the adapter or a picture cannot be loaded, if a class folder belongs to none of the classes, or
            if calibrated probabilities are asked for and the run determined no temperature.
    """
    AT_LEAST_ONE.check(batch_size, "--batch_size")
    found = LabeledFolder.read(folder, names_file)  # before a model is loaded
    classifier = load_classifier(adapter, class_names, template, model_name_or_path).eval()
    check_calibration(classifier, adapter, ["--calibrated"] if calibrated else [])
    temperature = classifier.temperature_for(calibrated)
    pictures, notes = found.labeled(classifier.class_names)
    accelerator = Accelerator()
    keep_freed_memory(accelerator.device)
    try:
        samples = TestPictures(pictures, classifier.image_processor)
        loader = accelerator.prepare(make_loader(accelerator, samples, batch_size, num_workers))
        logits = predict_logits(accelerator, classifier.to(accelerator.device), loader)
    except ValueError:
        check_pictures(pictures)  # names every picture that cannot be read, instead of the first
        raise
    labels, items, names = pictures["label"][:], pictures["item"][:], distinct(classifier.class_names)
    reliability = measured(logits, labels, classifier.calibration)
    return SavedEvaluation(
        os.fspath(adapter),
        os.fspath(folder),
        names,
        {
            **metrics_of(logits.argmax(dim=-1), labels, classifier.class_names, items),
            "calibration": reliability,
        },
        _mistakes(probabilities_of(logits, temperature), labels, names, items),
        temperature is not None,
        [*notes, *_seen_by_the_run(Path(adapter), pictures), *note_on_calibration(reliability)],
    )


def _mistakes(
    probabilities: torch.Tensor, labels: Sequence[int], names: Sequence[str], items: Sequence[str]
) -> list[Mistake]:
    highest, predicted = probabilities.max(dim=-1)
    found = zip(items, labels, predicted.tolist(), highest.tolist())
    mistakes = [Mistake(item, names[true], names[guess], p) for item, true, guess, p in found if true != guess]
    return sorted(mistakes, key=lambda mistake: -mistake.probability)


def _seen_by_the_run(adapter: Path, pictures: Dataset) -> list[str]:
    """A note for each part of the pictures that the run has learned from, if its `run.json` lists them."""
    parts = (read_identity(adapter) or {}).get(PICTURES) or {}
    found = fingerprints_of(pictures) if parts else []
    notes = []
    for part in SEEN:
        known = {shown.split(" ", maxsplit=1)[0] for shown in parts.get(part, {}).values()}
        if number := sum(fingerprint in known for fingerprint in found):
            notes.append(
                f"{number:,} of these pictures were {part} pictures of the run: the accuracy on new pictures is lower"
            )
    return notes
