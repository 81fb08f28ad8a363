"""The two forms of boxes: centers and sizes, as the models have them, and corners, as users have them."""

from __future__ import annotations

import torch


def corners(boxes: torch.Tensor) -> torch.Tensor:
    """Convert boxes (..., 4) from centers x and y, width and height to left, top, right and bottom."""
    center, size = boxes.split(2, dim=-1)  # 2 x (..., 2)
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def centers(boxes: torch.Tensor) -> torch.Tensor:
    """Convert boxes (..., 4) from left, top, right and bottom to centers x and y, width and height."""
    start, end = boxes.split(2, dim=-1)  # 2 x (..., 2)
    return torch.cat([(start + end) / 2, end - start], dim=-1)
