"""Tells the user what was predicted: prints the answers, or says which file holds them. Says what has no answer."""

from __future__ import annotations

import sys
from typing import Optional

from accelerate import Accelerator

from ..classifier.batches import in_ranges
from ..classifier.prediction import PictureClassifier
from .data.class_names import join_names
from .data.unlabeled import ParquetPictures, PictureFiles
from .data.workers import choose_workers
from .predicting import Prediction, classify
from .prediction_job import predict_to_file
from .question import Question
from .terminal import printable


def print_predictions(
    classifier: PictureClassifier,
    pictures: PictureFiles | ParquetPictures,
    question: Question,
    batch_size: int = 32,
    num_workers: Optional[int] = None,
) -> int:
    """
    Classify pictures, and print the answers in their order.

    Args:
        classifier: the classifier, on the device of this process.
        pictures: the pictures.
        question: what is asked about each picture.
        batch_size: number of pictures at a time.
        num_workers: number of processes that read pictures; None: see `choose_workers`.

    Returns:
        The number of pictures that could not be read. Their errors are printed at the end, to stderr.

    Raises:
        ValueError: if there are several processes, or a number is out of range.
    """
    accelerator = Accelerator()
    if accelerator.num_processes > 1:
        raise ValueError(f"{accelerator.num_processes} processes cannot print in order. Give --output.")
    errors = []
    batches = in_ranges(0, len(pictures), batch_size)
    num_workers = choose_workers(num_workers, accelerator.device.type)
    for predictions in classify(classifier, pictures, question, batches, num_workers):
        for prediction in predictions:
            if prediction.answer is None:
                errors.append(printable(prediction.error))
            else:
                _print_answer(prediction, question)
    if errors:
        print(f"{len(errors)} of {len(pictures)} pictures have no answer:", file=sys.stderr)
        print(*errors, sep="\n", file=sys.stderr)
    return len(errors)


def _print_answer(prediction: Prediction, question: Question) -> None:
    answer = prediction.answer
    print(printable(prediction.picture))
    for name, probability in answer.best:
        print(f"  {100 * probability:5.1f} %  {printable(name)}")
    if answer.is_confident is False:
        print(f"  not confident: below {100 * question.min_confidence:g} %")
    if answer.classes is not None:
        found = printable(join_names(answer.classes)) or "no class is probable enough"
        print(f"  set at {100 * question.coverage:g} %: {found}")


def write_predictions(
    classifier: PictureClassifier,
    pictures: PictureFiles | ParquetPictures,
    output: str,
    question: Question,
    batch_size: int = 32,
    num_workers: Optional[int] = None,
    overwrite: bool = False,
) -> int:
    """
    Classify pictures, write the predictions to a file, and say so (see `prediction_job.predict_to_file`).

    Args:
        classifier: as in `predict_to_file`.
        pictures: as in `predict_to_file`.
        output: as in `predict_to_file`.
        question: as in `predict_to_file`.
        batch_size: as in `predict_to_file`.
        num_workers: as in `predict_to_file`.
        overwrite: as in `predict_to_file`.

    Returns:
        The number of pictures that could not be read; 0 in a process that is not the main one.

    Raises:
        ValueError: as in `predict_to_file`.
        KeyboardInterrupt: as in `predict_to_file`.
    """
    written = predict_to_file(classifier, pictures, output, question, batch_size, num_workers, overwrite)
    if written is None:  # the main process says it
        return 0
    already, number = " already" if written.before else "", f"{len(pictures):,}"
    predicted = f"{len(pictures) - written.errors:,} of {number}" if written.errors else f"all {number}"
    print(f"{output} holds the predictions of {predicted} pictures{already}")
    print(f"{written.note} tells how they were made, so that the same command does not make them again")
    if written.errors:
        have = "has" if written.errors == 1 else "have"
        print(f"{written.errors:,} {have} no answer; the column error says why", file=sys.stderr)
    return written.errors
