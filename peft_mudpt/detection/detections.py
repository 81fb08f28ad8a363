"""What was found in a picture: the best boxes with their scores and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .boxes import corners


@dataclass(frozen=True)
class Detections:
    """
    The n objects found in one picture, the best first.

    Args:
        boxes: (n, 4): left, top, right and bottom in pixels of the picture, upright. They may reach beyond its edge.
        scores: (n,), from 0 to 1.
        labels: (n,): the positions of the classes in `class_names`.
        names: their n names.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)


def best_detections(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    size: tuple[int, int],
    class_names: Sequence[str],
    threshold: float,
    top_k: int,
) -> Detections:
    """
    Choose the best objects of a picture.

    Args:
        logits: (N, C), of N boxes and C classes.
        boxes: (N, 4): centers x and y, width and height, relative to the picture.
        size: width and height of the picture, in pixels.
        class_names: the names of the classes.
        threshold: the score that an object must exceed.
        top_k: the most objects, counted over all classes.
    """
    flat = logits.float().flatten()  # (N * C,)
    order = flat.argsort(descending=True, stable=True)[:top_k]  # by logits: high scores round to 1
    order = order[flat[order].sigmoid() > threshold]
    labels = order % logits.shape[1]
    found = corners(boxes[order // logits.shape[1]].float())  # (n, 4)
    names = [class_names[label] for label in labels.tolist()]
    return Detections(found * found.new_tensor([*size, *size]), flat[order].sigmoid(), labels, names)


def check_finite(logits: torch.Tensor, boxes: torch.Tensor, position: int) -> None:
    """Raise a ValueError if logits or boxes of a picture are not finite; -inf is a class in another caption."""
    if logits.isnan().any() or logits.isposinf().any() or not boxes.isfinite().all():
        raise ValueError(
            f"The scores or boxes of picture {position} are not finite. Either its pixel values are too large, or "
            "weights of the model are NaN, or too large for its precision."
        )
