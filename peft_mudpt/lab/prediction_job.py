"""Classifies many pictures into a file: in one process or several, and again after a kill."""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple, Optional

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from ..classifier.batches import in_ranges
from ..classifier.prediction import PictureClassifier
from ..rules import is_text
from .data.files import listed
from .data.unlabeled import ParquetPictures, PictureFiles
from .data.workers import choose_workers, processes_here
from .environment import keep_freed_memory
from .predicting import classify
from .predictions import PART_SIZE, PredictionsFile, describe_job
from .question import Question
from .run_folder import lock


class Written(NamedTuple):
    """
    A file of predictions that is complete.

    Attributes:
        errors: number of pictures that could not be read.
        before: True if an earlier call had completed the file, so that nothing was left to do.
        note: the file beside it that tells how the predictions were made.
    """

    errors: int
    before: bool
    note: Path


def predict_to_file(
    classifier: PictureClassifier,
    pictures: PictureFiles | ParquetPictures,
    output: str | os.PathLike,
    question: Question = Question(),  # noqa: B008, it cannot be changed
    batch_size: int = 32,
    num_workers: Optional[int] = None,
    overwrite: bool = False,
) -> Optional[Written]:
    """
    Classify pictures, and write the predictions to a file (see `PredictionsFile`). If an earlier call was killed, the
    same call goes on. If there are several processes (`accelerate launch`), each classifies its part of the pictures,
    and the main process writes the file when all are done. They share the folder of the file.

    Args:
        classifier: the classifier, on the device of this process.
        pictures: the pictures.
        output: the file to write, which ends in .csv or .parquet.
        question: what is asked about each picture.
        batch_size: number of pictures at a time, at most `PART_SIZE`.
        num_workers: number of processes that read pictures for each process with a model; None: see `choose_workers`.
        overwrite: replace what belongs to other predictions.

    Returns:
        What was written; None in a process that is not the main one.

    Raises:
        ValueError: if an argument cannot be used, if the classifier cannot answer, if `output` belongs to other
            predictions, or if another process writes it.
        KeyboardInterrupt: if the user interrupts the job; the message says how to go on.
    """
    if not 1 <= batch_size <= PART_SIZE:
        raise ValueError(f"--batch_size {batch_size} must be from 1 to {PART_SIZE}.")
    if isinstance(pictures, PictureFiles) and (wrong := [ascii(path) for path in pictures if not is_text(path)]):
        raise ValueError(f"These paths are not UTF-8, as --output must be: {listed(wrong)}. Rename the files.")
    question.check(classifier)
    accelerator = Accelerator()
    keep_freed_memory(accelerator.device)
    num_workers = choose_workers(num_workers, accelerator.device.type, processes_here(accelerator))
    file = PredictionsFile(output, describe_job(classifier, pictures, question))
    try:
        with lock(file.folder) if accelerator.is_main_process else nullcontext():
            finished = file.claim(overwrite) if accelerator.is_main_process else None
            (finished,) = broadcast_object_list([finished])
            if finished is None:
                _classify_parts(classifier, pictures, question, batch_size, num_workers, file, accelerator)
            errors = finished
            if finished is None and accelerator.is_main_process:
                file.wait()
                errors = file.merge()
    except KeyboardInterrupt:
        missing = sum(map(len, file.missing(file.parts)))
        raise KeyboardInterrupt(
            f"interrupted; {file.folder} keeps the predictions of {len(pictures) - missing:,} of {len(pictures):,} "
            "pictures, and the same command goes on"
        ) from None
    if not accelerator.is_main_process:
        return None
    with suppress(OSError):  # it holds something of the user
        file.folder.rmdir()
    return Written(errors, finished is not None, file.note)


def _classify_parts(
    classifier: PictureClassifier,
    pictures: PictureFiles | ParquetPictures,
    question: Question,
    batch_size: int,
    num_workers: int,
    file: PredictionsFile,
    accelerator: Accelerator,
) -> None:
    """Classify the parts of this process that are missing."""
    # every n-th part, so that no two processes write the same one
    own = file.parts[accelerator.process_index :: accelerator.num_processes]
    parts = file.missing(own)
    accelerator.wait_for_everyone()  # before the main process could merge the parts, and delete them
    batches = [batch for part in parts for batch in in_ranges(part.start, part.stop, batch_size)]
    answers = classify(classifier, pictures, question, batches, num_workers)
    total, left = (sum(map(len, some)) for some in (own, parts))
    title = "classifying" if accelerator.num_processes == 1 else f"process 1 of {accelerator.num_processes}"
    quiet = not accelerator.is_main_process
    with tqdm(desc=title, total=total, initial=total - left, unit=" pictures", disable=quiet) as bar:
        for part in parts:
            predictions = []
            while len(predictions) < len(part):
                found = next(answers)
                predictions += found
                bar.update(len(found))
            file.write(part, predictions)
