"""Pixels in [0, 1], in which an attack is measured, and the pixel values that a CLIP takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import BaseImageProcessor


@dataclass(frozen=True)
class Normalization:
    """
    What an image processor does to pixels in [0, 1]: it subtracts the mean and divides by the standard deviation.

    Args:
        mean: of each color channel.
        std: of each color channel.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, image_processor: BaseImageProcessor) -> Normalization:
        """
        Read the normalization of an image processor.

        Args:
            image_processor: the image processor of a CLIP.

        Raises:
            ValueError: if it does not scale pixels to [0, 1] first, or has no mean and standard deviation of channels.
        """
        settings = {name: getattr(image_processor, name, None) for name in ("do_rescale", "rescale_factor")}
        if not settings["do_rescale"] or abs((settings["rescale_factor"] or 0) * 255 - 1) > 1e-6:
            raise ValueError(
                f"The image processor has {', '.join(f'{name}={value}' for name, value in settings.items())}, so that "
                "its pixels are not in [0, 1]. An attack needs do_rescale=True and rescale_factor=1/255."
            )
        if not getattr(image_processor, "do_normalize", False):
            return cls()
        mean, std = (getattr(image_processor, name) for name in ("image_mean", "image_std"))
        try:
            return cls(tuple(map(float, mean)), tuple(map(float, std)))
        except TypeError as error:
            raise ValueError(
                f"The image processor has image_mean={mean} and image_std={std}, but an attack needs one number per "
                "channel."
            ) from error

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """
        Normalize pixels.

        Args:
            pixels: pixels (..., C, H, W) in [0, 1].

        Returns:
            Pixel values of the same shape, with a gradient to the pixels.
        """
        return (pixels - self._of(pixels, self.mean)) / self._of(pixels, self.std)

    def undo(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Find the pixels from which pixel values were made.

        Args:
            pixel_values: normalized pixels (..., C, H, W).

        Returns:
            Pixels of the same shape, cut to [0, 1] because of rounding.
        """
        return (pixel_values * self._of(pixel_values, self.std) + self._of(pixel_values, self.mean)).clamp(0, 1)

    @staticmethod
    def _of(pixels: torch.Tensor, values: tuple[float, ...]) -> torch.Tensor:
        return pixels.new_tensor(values).view(-1, 1, 1)


def check_pixels(pixels: torch.Tensor) -> None:
    """
    Check that pictures are pixels in [0, 1].

    Args:
        pixels: what a caller gave.

    Raises:
        ValueError: if they are no floating-point tensor (N, 3, H, W), or not all in [0, 1].
    """
    if (
        not isinstance(pixels, torch.Tensor)
        or pixels.shape[1:2] != (3,)
        or pixels.dim() != 4
        or not pixels.is_floating_point()
    ):
        found = (
            f"a tensor {tuple(pixels.shape)} of {pixels.dtype}"
            if isinstance(pixels, torch.Tensor)
            else type(pixels).__name__
        )
        raise ValueError(f"pixels is {found}, but must be a floating-point tensor (N, 3, H, W).")
    if not pixels.numel():
        return
    low, high = (value.item() for value in torch.aminmax(pixels.detach()))
    if 0 <= low and high <= 1:
        return
    if low < 0 and high < 20:
        advice = (
            "They look normalized: give image_processor(pictures, do_normalize=False), which an attack normalizes."
        )
    elif 1 < high <= 255:
        advice = "They look like levels from 0 to 255: divide them by 255."
    else:
        advice = "Are some not finite?"
    raise ValueError(f"pixels are between {low:.4g} and {high:.4g}, but must be in [0, 1]. {advice}")
