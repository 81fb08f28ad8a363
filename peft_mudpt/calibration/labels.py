"""Checks the logits and the labels of pictures that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import torch


Labels = Union[torch.Tensor, Sequence[int]]


def checked(rows: torch.Tensor, labels: Labels, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Check that each picture has a row of numbers and a label.

    Args:
        rows: a number for each class, such as logits (N, C), of N pictures.
        labels: the class indices of the pictures.
        name: what the rows hold, for messages.

    Returns:
        The rows in float64, and the labels (N,) on the same device.

    Raises:
        ValueError: if there are no pictures, fewer than two classes, another number of labels, a label that is no
            class index, or a number that is not finite.
    """
    if rows.dim() != 2 or len(rows) == 0 or rows.shape[1] < 2 or not rows.is_floating_point():
        raise ValueError(
            f"{name} is a tensor {tuple(rows.shape)} of {rows.dtype}, but must be (N, C) in floating point, for at "
            "least one picture and two classes."
        )
    found = torch.as_tensor(labels, device=rows.device)
    if found.shape != rows.shape[:1] or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise ValueError(
            f"labels has the shape {tuple(found.shape)} and the type {found.dtype}, but must hold a class index for "
            f"each of the {len(rows)} pictures."
        )
    outside = (found < 0) | (found >= rows.shape[1])
    if outside.any():
        raise ValueError(
            f"labels holds {found[outside][0].item()}, but the classes are numbered from 0 to {rows.shape[1] - 1}."
        )
    if not rows.isfinite().all():
        raise ValueError(f"{name} holds numbers that are NaN or infinite. Leave these pictures out.")
    return rows.double(), found.long()
