"""Classifies pictures, of which some may be unreadable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

import torch

from ..classifier.batches import PictureBatches, read_batches
from ..classifier.prediction import PictureClassifier
from .data.unlabeled import ParquetPictures, PictureFiles
from .question import Answer, Question


class Prediction(NamedTuple):
    """
    What was predicted for a picture.

    Attributes:
        picture: the name of the picture, such as its path.
        error: why it could not be read; None if it was read.
        answer: the answer; None with an error.
    """

    picture: str
    error: Optional[str]
    answer: Optional[Answer]


def classify(
    classifier: PictureClassifier,
    pictures: PictureFiles | ParquetPictures,
    question: Question,
    batches: Sequence[range],
    num_workers: int = 0,
) -> Iterator[list[Prediction]]:
    """
    Classify pictures. One that cannot be read does not stop the others.

    Args:
        classifier: the classifier.
        pictures: the pictures.
        question: what is asked about each picture.
        batches: the positions of the pictures in each batch.
        num_workers: number of processes that read pictures while the model computes (see `read_batches`).

    Returns:
        An iterator over the batches, which gives the predictions of each.
    """
    source = PictureBatches(pictures, classifier.image_processor, pictures.name)
    answers = question.answers(classifier)
    for batch in read_batches(source, batches, num_workers, pin_memory=classifier.model.device.type == "cuda"):
        width = len(classifier.class_names)
        logits = classifier.logits_of_batch(batch.pixels) if len(batch.pixels) else torch.empty(0, width)
        of_batch = answers(logits)
        yield [
            Prediction(name, batch.errors[place], None)
            if place in batch.errors
            else Prediction(name, None, next(of_batch))
            for place, name in enumerate(batch.names)
        ]
