"""What every classifier of pictures has in common: it predicts class probabilities and names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Optional

import torch
from torch.nn.functional import normalize
from transformers import BaseImageProcessor, PretrainedConfig

from ..image_size import image_size_of
from ..layer import layer_of
from ..rules import AT_LEAST_ONE, NOT_NEGATIVE, PROBABILITY, one_of
from ..towers.family import Family
from .answers import best_classes, classes_in_sets, probabilities_of
from .batches import read_each_in_workers
from .calibrated import Calibrated
from .loading import ModelSource
from .pictures import pixel_values
from .reading import Errors, check_iterable, opened, read_each, warn_of_skipped


if TYPE_CHECKING:
    from .reading import Images


class PictureClassifier(Calibrated, torch.nn.Module):
    """
    A classifier of pictures. Subclasses define `forward`, which maps pixel values (B, 3, H, W) or their image features
    (B, D) to an output with `logits` (B, C), and `linear_head`.

    Attributes:
        model: the CLIP, plain or adapted, that makes the image features.
        config: the config of the CLIP.
        family: the family of the CLIP.
        class_names: names of the C classes; the position of a name is its label.
        template: the text of a class, with `{}` for its name; None if the classifier has no texts, or several.
        calibration: what held-out pictures tell about the probabilities; None if it was not measured.
    """

    model: Any
    config: PretrainedConfig
    family: Family
    class_names: list[str]
    template: Optional[str] = None
    _image_processor: Optional[BaseImageProcessor] = None
    _loaded_image_processor: Optional[tuple[Optional[int], BaseImageProcessor]] = None  # and the size of its images
    _source: Optional[ModelSource] = None  # of the image processor; None: where the model was loaded from

    @property
    def class_texts(self) -> Optional[list[list[str]]]:
        """The texts of each class, in the order of the labels; None if the classifier has no texts."""
        return None

    def image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The features (B, D) of images (B, 3, H, W), each with L2 norm 1. They carry a gradient if they need one."""
        layer = layer_of(self.model)
        # only if there are prompts: features that no adapter changes are shared with those of the plain model
        prompted = layer is not None and layer.num_tokens("vision") > 0
        return normalize(self.family.image_features(self.model, pixel_values, pooled_only=prompted), dim=-1)

    def _features_of_either(
        self, pixel_values: Optional[torch.Tensor], image_features: Optional[torch.Tensor]
    ) -> torch.Tensor:
        """The normalized image features (B, D), from the one of the two arguments of `forward` that was given."""
        if pixel_values is not None and image_features is not None:
            raise ValueError("Found both pixel_values and image_features. Give one of them.")
        if pixel_values is not None:
            return self.image_features(pixel_values)
        if image_features is None:
            raise ValueError("Found neither pixel_values (B, 3, H, W) nor image_features (B, D). Give one of them.")
        self._check_features(image_features)
        return image_features

    def _check_features(self, image_features: torch.Tensor) -> None:
        size = self.family.feature_size(self.config)
        if image_features.dim() != 2 or image_features.shape[1] != size or not image_features.is_floating_point():
            raise ValueError(
                f"image_features is a tensor {tuple(image_features.shape)} of {image_features.dtype}, but must be "
                f"(B, {size}) in floating point. Give normalized features, such as classifier.image_features(images)."
            )

    def linear_head(self) -> tuple[torch.Tensor, Optional[torch.Tensor]]:
        """
        The layer that maps normalized image features (B, D) to logits (B, C), up to a number that is the same for all
        classes.

        Returns:
            The weights (C, D) and the biases (C,); None if there are no biases.
        """
        raise NotImplementedError

    @property
    def image_processor(self) -> BaseImageProcessor:
        """
        The image processor, which makes pixel values (N, 3, H, W) from pictures: the one given to the classifier, or
        that of the CLIP that the model was loaded from, for images of the size that the model takes.

        Raises:
            ValueError: if no image processor was given and the CLIP was not loaded from a folder or the Hub.
        """
        if self._image_processor is not None:
            return self._image_processor
        size = image_size_of(self.model)
        if self._loaded_image_processor is None or self._loaded_image_processor[0] != size:
            source = self._source or ModelSource.of(self.model, "image_processor")
            self._loaded_image_processor = size, source.image_processor(size)
        return self._loaded_image_processor[1]

    def predict_proba(
        self,
        images: Images,
        batch_size: int = 32,
        errors: Errors = "raise",
        num_workers: int = 0,
        *,
        calibrated: Optional[bool] = None,
    ) -> torch.Tensor:
        """
        Class probabilities of images.

        Args:
            images: pictures, each as `open_picture` takes it: files, bytes, PIL images or arrays, in a list, a column
                of `datasets`, an array (N, H, W, 3) or any other iterable; or a tensor of pixel values (N, 3, H, W),
                as the image processor makes them.
            batch_size: number of images at a time.
            errors: what to do if a picture cannot be read, or if the pixel values of an image are not finite: "raise"
                raises an error, "skip" warns and goes on.
            num_workers: number of processes that open and preprocess pictures while the model computes; 0: this one
                does. With them, `images` must be a sequence, such as a list or a column of `datasets`.
            calibrated: whether to divide the logits by the temperature of the `calibration`; None: if it has one.

        Returns:
            Probabilities (N, C) in float32, for N images and C classes; each row adds up to 1. The row of a picture
            that was skipped is NaN.

        Raises:
            ValueError: if `images` has another type or shape, an argument has another value, or an image has logits
                that are not finite; with `errors="raise"` also if an image cannot be read. The message gives the
                position of the image, counted from 0. With `calibrated=True`, also if there is no temperature.
        """
        temperature = self.temperature_for(calibrated)
        return probabilities_of(self._logits_of_each(images, batch_size, errors, num_workers), temperature)

    def predict(
        self,
        images: Images,
        batch_size: int = 32,
        errors: Errors = "raise",
        num_workers: int = 0,
        *,
        min_confidence: float = 0.0,
    ) -> list[Optional[str]]:
        """
        The most probable class of each image; None if it was skipped, or if `min_confidence` is given, and the
        calibrated probability of this class is lower. See `predict_proba` for the other arguments and the errors.
        """
        PROBABILITY.check(min_confidence, "min_confidence")
        temperature = self.temperature() if min_confidence > 0 else None
        logits = self._logits_of_each(images, batch_size, errors, num_workers)
        best = best_classes(logits, self.class_names, 1, temperature)
        return [row[0][0] if row and row[0][1] >= min_confidence else None for row in best]

    def top_k(
        self,
        images: Images,
        k: int = 5,
        batch_size: int = 32,
        errors: Errors = "raise",
        num_workers: int = 0,
        *,
        calibrated: Optional[bool] = None,
    ) -> list[list[tuple[str, float]]]:
        """
        The k most probable classes of each image with their probabilities (0 to 1), the most probable first. Classes
        with equal logits are in the order of the labels. If there are fewer than k classes, it returns all of them;
        for an image that was skipped, none. See `predict_proba` for the other arguments.

        Raises:
            ValueError: if `k` is not a whole number of at least 1.
        """
        AT_LEAST_ONE.check(k, "k")
        temperature = self.temperature_for(calibrated)
        logits = self._logits_of_each(images, batch_size, errors, num_workers)
        return best_classes(logits, self.class_names, k, temperature)

    def predict_sets(
        self,
        images: Images,
        coverage: float = 0.9,
        per_class: bool = False,
        batch_size: int = 32,
        errors: Errors = "raise",
        num_workers: int = 0,
    ) -> list[Optional[list[str]]]:
        """
        The classes that each image may show, so that the set holds the right one with a stated probability (see
        `ConformalSets`). It holds for images like those of the `calibration`.

        Args:
            images, batch_size, errors, num_workers: see `predict_proba`.
            coverage: the stated probability, between 0 and 1.
            per_class: whether it is to hold for each class that has enough pictures in the calibration.

        Returns:
            The names, the most probable first. A set may be empty, mostly if the classifier is right more often than
            `coverage`. None for an image that was skipped.

        Raises:
            ValueError: as `predict_proba`; also if there is no calibration, or if it has too few pictures.
        """
        sets = self.sets(coverage, per_class)
        return classes_in_sets(self._logits_of_each(images, batch_size, errors, num_workers), self.class_names, sets)

    @torch.no_grad()
    def logits_of_batch(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        The logits (B, C) in float32 of the images of one batch. A batch in pinned memory is copied to the device while
        the program goes on.

        Args:
            pixel_values: pixel values (B, 3, H, W), on any device.

        Raises:
            ValueError: if an image has logits that are not finite.
        """
        return self._logits(pixel_values, range(len(pixel_values)))

    def _logits_of_each(self, images: Images, batch_size: int, errors: Errors, num_workers: int) -> torch.Tensor:
        """The logits (N, C) in float32 of images; NaN for an image that was skipped. See `predict_proba`."""
        one_of("raise", "skip").check(errors, "errors")
        AT_LEAST_ONE.check(batch_size, "batch_size")
        NOT_NEGATIVE.check(num_workers, "num_workers")
        skipped: dict[int, str] = {}  # messages by position
        positions: list[int] = []
        found = [torch.empty(0, len(self.class_names))]
        pixels = self._pixels_of_each(images, errors, skipped, batch_size, num_workers)
        while batch := list(islice(pixels, batch_size)):
            positions += [position for position, _ in batch]
            with torch.no_grad():
                found.append(self._logits(torch.stack([image for _, image in batch]), positions[-len(batch) :]))
        number = len(positions) + len(skipped)
        warn_of_skipped(skipped, number, stacklevel=4)
        logits = found[-1].new_full((number, len(self.class_names)), torch.nan)
        logits[positions] = torch.cat([part.to(logits.device) for part in found])
        return logits

    def _logits(self, pixel_values: torch.Tensor, positions: Sequence[int]) -> torch.Tensor:
        """The logits (B, C) in float32 of the images (B, 3, H, W) at these positions. They are finite."""
        with self._without_switches():
            pixel_values = pixel_values.to(self.model.device, self.model.dtype, non_blocking=True)
            logits = self(pixel_values).logits.float()
        _check_logits(logits, positions)
        return logits

    def _without_switches(self) -> AbstractContextManager[None]:
        """While this context is open, no other thread switches a MuDPT adapter, so that a batch sees one adapter."""
        layer = layer_of(self.model)
        return nullcontext() if layer is None else layer.switch_lock

    def _pixels_of_each(
        self, images: Images, errors: Errors, skipped: dict[int, str], batch_size: int, num_workers: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield position and pixel values (3, H, W) of each image; put the messages of the others in `skipped`."""
        shape = self.family.image_shape(self.model.config)
        if isinstance(images, torch.Tensor):
            _check_tensor(images, shape[0])
        else:
            check_iterable(images)
        if num_workers and not isinstance(images, torch.Tensor):
            read = read_each_in_workers(images, self.image_processor, errors, skipped, batch_size, num_workers)
        else:
            read = read_each(images, partial(self._reader, images), errors, skipped)
        for position, pixels in read:
            if pixels.shape != shape:
                raise ValueError(
                    f"picture {position} has pixel values {tuple(pixels.shape)}, but the model takes {shape}. Use "
                    "the image processor of its CLIP."
                )
            yield position, pixels

    def _reader(self, images: Images) -> Callable[[Any, int], torch.Tensor]:
        return _finite if isinstance(images, torch.Tensor) else partial(_preprocessed, self.image_processor)


def _check_tensor(images: torch.Tensor, channels: int) -> None:
    if images.dim() != 4 or not images.is_floating_point() or images.shape[1] != channels:
        raise ValueError(
            f"images is a tensor {tuple(images.shape)} of {images.dtype}; a tensor must be (N, {channels}, H, W) "
            "in floating point, as the image processor makes it. Give it pictures (PIL) or files instead."
        )


def _preprocessed(image_processor: BaseImageProcessor, picture: Any, position: int) -> torch.Tensor:
    """The pixel values (3, H, W) of a picture. It is small from here on, so that large ones can be many."""
    return pixel_values(opened(picture, position), image_processor)


def _finite(image: torch.Tensor, position: int) -> torch.Tensor:
    if not image.isfinite().all():
        raise ValueError(f"picture {position} has pixel values that are NaN or infinite. Leave it out.")
    return image


def _check_logits(logits: torch.Tensor, positions: Sequence[int]) -> None:
    finite = logits.isfinite().all(dim=-1)  # (B,)
    if not finite.all():
        raise ValueError(
            f"The logits of picture {positions[int(finite.int().argmin())]} are not finite. Either its pixel values "
            "are too large, or weights of the model are NaN, or too large for its precision."
        )
