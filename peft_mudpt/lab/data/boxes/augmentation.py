"""Random changes of training pictures that move their boxes with them, by MONAI."""

from __future__ import annotations

from typing import Any

import torch

from ....rules import Rule


FLIP = Rule("a number from 0 to 1", lambda value: isinstance(value, (int, float)) and 0 <= value <= 1)
ZOOM = Rule("a number above 0, up to 1", lambda value: isinstance(value, (int, float)) and 0 < value <= 1)
Y_FIRST = [1, 0, 3, 2]  # MONAI's order of coordinates is that of the axes of a picture


class BoxAugmentation:
    """
    Flips pictures from left to right, and makes them smaller, at random, with their boxes. Needs the package MONAI.

    MONAI (Apache 2.0) is kept up, needs torch and NumPy only, and moves boxes exactly. Kornia 0.9 moves the boxes of a
    flipped picture one pixel too far; Albumentations is not developed any more; its successor has the AGPL.

    Args:
        flip: the probability of a flip. 0 for pictures in which left and right matter, such as those of text.
        smallest_zoom: the smallest factor of the sides; the largest is 1. With 0.6, sides of 800 pixels become 480 to
            800, as in the training of DETR (arXiv 2005.12872, section 4).

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(self, flip: float = 0.5, smallest_zoom: float = 0.6):
        FLIP.check(flip, "flip")
        ZOOM.check(smallest_zoom, "smallest_zoom")
        self.flip = flip
        self.smallest_zoom = smallest_zoom

    def __call__(self, pixels: torch.Tensor, boxes: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Change one picture.

        Args:
            pixels: the picture (3, H, W).
            boxes: its boxes (n, 4): left, top, right and bottom in its pixels.
            seed: seed of the random numbers, from 0 to 2**32 - 1.

        Returns:
            The changed picture (3, H', W') and its boxes (n, 4).
        """
        from monai.transforms import Compose  # type: ignore[import-not-found]

        changed = Compose(self._steps()).set_random_state(seed)({"pixels": pixels, "boxes": boxes[:, Y_FIRST]})
        pixels = changed["pixels"].as_tensor()
        height, width = pixels.shape[1:]
        moved = changed["boxes"][:, Y_FIRST]
        # zoomed pictures have whole pixels, of which the last may be cut
        return pixels, torch.minimum(moved, moved.new_tensor([width, height, width, height]))

    def _steps(self) -> list[Any]:
        from monai.apps.detection.transforms.dictionary import RandFlipBoxd, RandZoomBoxd

        keys = dict(image_keys="pixels", box_keys="boxes", box_ref_image_keys="pixels")
        return [
            RandFlipBoxd(**keys, prob=self.flip, spatial_axis=1),
            RandZoomBoxd(**keys, prob=1.0, min_zoom=self.smallest_zoom, max_zoom=1.0, keep_size=False),
        ]
