"""The detector: it finds objects by the names of their classes, with a score per class and boxes in pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Optional, Union

import torch
from peft import PeftConfig, PeftModel
from transformers import BaseImageProcessor, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from ..classifier.loading import HUB_OPTIONS, ModelSource, check_method, find_adapter, find_base
from ..classifier.reading import Errors, check_iterable, read_each, warn_of_skipped
from ..library_warnings import without_known_warnings
from ..rules import AT_LEAST_ONE, check_class_names, number, one_of
from .batches import of_equal_size, preprocess
from .captions import Caption, make_captions
from .detections import Detections, best_detections, check_finite
from .loading import base_detector, classes_of, load_detector
from .loss import REDUCTION, Reduction, per_picture_loss


if TYPE_CHECKING:
    from ..classifier.pictures import Picture

SHARE = number(0, 1)
Labels = Sequence[Mapping[str, torch.Tensor]]


@dataclass
class FusionDetectorOutput(ModelOutput):
    """
    The output of [`FusionDetector`] for B pictures, N boxes in each, and C classes. N is the number of queries of the
    model, once for each caption.

    Args:
        loss: the training loss (see `per_picture_loss`); None if no labels were given.
        loss_dict: the parts of the loss by name, before their weights; None if no labels were given.
        logits: (B, N, C): the largest logit among the tokens of each class; its sigmoid is the score. Minus infinity
            for classes that are not in the caption of the box.
        pred_boxes: (B, N, 4): centers x and y, width and height, relative to the picture without its padding.
    """

    loss: Optional[torch.Tensor] = None
    loss_dict: Optional[dict[str, torch.Tensor]] = None
    logits: Optional[torch.Tensor] = None
    pred_boxes: Optional[torch.Tensor] = None


class FusionDetector(torch.nn.Module):
    """
    Detects objects of named classes with a GroundingDINO or MM-GroundingDINO, plain or with an adapter.

    The score of a class is the largest among the tokens of its name. transformers' own post-processing reads phrases
    from single tokens instead, so that it may return half a name, or the words of two classes as one.

    If labels are given, the detector replaces the loss of the model by `per_picture_loss`, because transformers' own
    is wrong for batches of unlike captions and for several processes.

    Args:
        model ([`~transformers.GroundingDinoForObjectDetection`], MMGroundingDinoForObjectDetection or
            [`~peft.PeftModel`] of one): the model that detects. It is shared, not copied.
        class_names: names of the C classes, in the order of the labels. None: those in the active adapter's config.
        tokenizer: tokenizer of the captions. None: that of the model, from where it was loaded.
        image_processor: needed only for pictures that are not tensors. None: that of the model, from where it was
            loaded.
        split_captions: spread the classes over several captions if they have more tokens than `max_text_len` of the
            config. The model then runs once for each caption.
        loss_reduction: "sum" of the losses of the pictures, their "mean", or "none": (B,).

    Raises:
        ValueError: if the model is not supported, if there are no names, or if they cannot be a caption (see
            `make_captions`).

    Example:

        ```py
        >>> detector = FusionDetector.from_pretrained("outputs/detector", ["cat", "remote control"])
        >>> found = detector.predict(["picture.jpg"], threshold=0.3)[0]
        >>> found.names, found.boxes
        ```
    """

    _source: Optional[ModelSource] = None  # of the image processor; None: where the model was loaded from

    def __init__(
        self,
        model: torch.nn.Module,
        class_names: Optional[Sequence[str]] = None,
        tokenizer: Optional[PreTrainedTokenizerBase] = None,
        image_processor: Optional[BaseImageProcessor] = None,
        split_captions: bool = False,
        loss_reduction: Reduction = "sum",
    ):
        super().__init__()
        REDUCTION.check(loss_reduction, "loss_reduction")
        base = base_detector(model)
        self.model: Any = model  # a PeftModel forwards the attributes of the model in it
        self.config = copy(base.config)
        # what transformers' Trainer leaves out of predictions
        self.config.keys_to_ignore_at_inference = ["loss_dict"]
        # a whole processor has both
        self._image_processor = getattr(image_processor, "image_processor", image_processor)
        if tokenizer is None:
            tokenizer = ModelSource.of(model, "tokenizer").tokenizer()
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        class_names = check_class_names(classes_of(class_names, _active_config(model)))
        self._captions = make_captions(tokenizer, class_names, base.config.max_text_len, split_captions)
        self._class_names = class_names
        self._loss = partial(per_picture_loss, reduction=loss_reduction)

    @classmethod
    def from_pretrained(
        cls,
        adapter: Union[str, os.PathLike],
        class_names: Optional[Sequence[str]] = None,
        base_model_name_or_path: Optional[Union[str, os.PathLike]] = None,
        split_captions: bool = False,
        loss_reduction: Reduction = "sum",
        *,
        revision: Optional[str] = None,
        subfolder: Optional[str] = None,
        base_revision: Optional[str] = None,
        **kwargs,
    ) -> FusionDetector:
        """
        Load an adapter, such as SDPT or LoRA, and the detector and the classes that its config names.

        Args:
            adapter: folder or Hub id.
            class_names, split_captions, loss_reduction: see the class.
            base_model_name_or_path: the detector, if it is not where the adapter's config says. It warns if the config
                names another one.
            revision, subfolder: where the adapter is in its Hub repository or folder; None: the main branch, the root.
            base_revision: the revision of the detector on the Hub; None: the one that the adapter's config records.
            **kwargs: `cache_dir`, `token`, `local_files_only` and `force_download` are for all downloads: the adapter,
                the detector, its tokenizer and its image processor. The others are for
                `AutoModelForZeroShotObjectDetection.from_pretrained`: `device_map`, `dtype` (default: float32), ...

        Raises:
            ValueError: if there is no adapter, if it names no detector or does not fit the one given, or if neither
                the caller nor the adapter gives classes.
        """
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        folder, config = find_adapter(adapter, revision, subfolder, **hub)
        check_method(adapter, config, "FusionDetector")
        class_names = classes_of(class_names, config)
        source = find_base(adapter, config, base_model_name_or_path, base_revision, **hub)
        base = load_detector(source, **kwargs)
        with without_known_warnings():
            model = PeftModel.from_pretrained(base, folder)
        detector = cls(model, class_names, source.tokenizer(), None, split_captions, loss_reduction)
        detector._source = source
        return detector.eval()

    @property
    def class_names(self) -> list[str]:
        """A copy of the names of the C classes, in the order of the labels. Other classes need another detector."""
        return list(self._class_names)

    @property
    def captions(self) -> list[str]:
        """The texts that the detector reads: one, or several if they are split."""
        return [caption.text for caption in self._captions]

    @property
    def image_processor(self) -> BaseImageProcessor:
        """
        The image processor: the one given to the detector, or that of the model, from where it was loaded.

        Raises:
            ValueError: if none was given and the model was not loaded from a folder or the Hub.
        """
        if self._image_processor is None:
            source = self._source or ModelSource.of(self.model, "image_processor")
            self._image_processor = source.image_processor()
        return self._image_processor

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: Optional[torch.Tensor] = None,
        labels: Optional[Labels] = None,
    ) -> FusionDetectorOutput:
        """
        Detect objects, with gradients if they are enabled.

        Args:
            pixel_values: pictures (B, 3, H, W), as the image processor makes them; see also `padded` in `batches`.
            pixel_mask: 1 for pixels of the pictures, 0 for padding: (B, H, W). None: there is no padding.
            labels: for each picture a dict of `class_labels` (n,), positions in `class_names`, and `boxes` (n, 4):
                centers x and y, width and height, relative to the picture without its padding.

        Returns:
            Scores per class, boxes, and, if labels are given, the loss. With several captions it is the sum of their
            losses; in each, only the boxes of its own classes are objects.

        Raises:
            ValueError: if a label is not the position of a class.
        """
        if labels is not None:
            _check_classes(labels, len(self._class_names))
        outputs = [self._detect(caption, pixel_values, pixel_mask, labels) for caption in self._captions]
        logits = torch.cat([self._per_class(output.logits, c) for output, c in zip(outputs, self._captions)], dim=1)
        boxes = torch.cat([output.pred_boxes for output in outputs], dim=1)  # (B, N, 4)
        if labels is None:
            return FusionDetectorOutput(logits=logits, pred_boxes=boxes)
        parts = {name: sum(output.loss_dict[name] for output in outputs) for name in outputs[0].loss_dict}
        return FusionDetectorOutput(sum(output.loss for output in outputs), parts, logits, boxes)

    def _detect(
        self, caption: Caption, pixels: torch.Tensor, pixel_mask: Optional[torch.Tensor], labels: Optional[Labels]
    ) -> Any:
        input_ids = caption.input_ids.to(pixels.device).expand(len(pixels), -1)  # (B, T)
        own = None
        if labels is not None:
            base_detector(self.model).loss_function = self._loss  # each time: another detector may share the model
            own = [_of_caption(target, caption) for target in labels]
        mask = torch.ones_like(input_ids)
        return self.model(pixels, input_ids, attention_mask=mask, pixel_mask=pixel_mask, labels=own)

    def _per_class(self, logits: torch.Tensor, caption: Caption) -> torch.Tensor:
        """The logits (B, Q, C) of the classes, from those (B, Q, max_text_len) of the tokens."""
        own = [logits[..., tokens].amax(dim=-1) for tokens in caption.tokens]  # c of (B, Q)
        result = logits.new_full((*logits.shape[:2], len(self._class_names)), -torch.inf)
        result[..., caption.labels] = torch.stack(own, dim=-1)
        return result

    @torch.no_grad()
    def predict(
        self,
        images: Iterable[Picture],
        threshold: float = 0.25,
        top_k: int = 100,
        batch_size: int = 8,
        errors: Errors = "raise",
    ) -> list[Optional[Detections]]:
        """
        Detect objects in pictures, in evaluation mode. A box may be found as several classes.

        Only pictures that follow each other and have the same size after preprocessing share a batch, because padding
        changes what these models find: their group normalization takes its statistics from the padding, too.

        Args:
            images: pictures, each as `open_picture` takes it, in a list, a column of `datasets`, an array (N, H, W, 3)
                or any other iterable.
            threshold: the score that an object must exceed. 0 keeps the best `top_k`, as average precision needs them.
            top_k: the most objects in a picture, counted over all classes.
            batch_size: the most pictures at a time.
            errors: what to do if a picture cannot be read: "raise" raises an error, "skip" warns and goes on.

        Returns:
            The objects of each picture; None for a picture that was skipped.

        Raises:
            ValueError: if an argument has another value, a picture cannot be read, or its scores are not finite. The
                message gives the position of the picture, counted from 0.
        """
        SHARE.check(threshold, "threshold")
        AT_LEAST_ONE.check(top_k, "top_k")
        AT_LEAST_ONE.check(batch_size, "batch_size")
        one_of("raise", "skip").check(errors, "errors")
        check_iterable(images)
        skipped: dict[int, str] = {}
        found: dict[int, Detections] = {}
        pictures = read_each(images, lambda: partial(preprocess, self.image_processor), errors, skipped)
        with evaluating(self):
            for batch in of_equal_size(pictures, batch_size):
                pixels = torch.stack([picture.pixels for _, picture in batch])
                output = self(pixels.to(self.model.device, self.model.dtype))
                for (position, picture), logits, boxes in zip(batch, output.logits, output.pred_boxes):
                    check_finite(logits, boxes, position)
                    found[position] = best_detections(logits, boxes, picture.size, self._class_names, threshold, top_k)
        total = len(found) + len(skipped)
        warn_of_skipped(skipped, total, stacklevel=4)
        return [found.get(position) for position in range(total)]


def _active_config(model: torch.nn.Module) -> Optional[PeftConfig]:
    """The config of the active adapter; None if there is none."""
    return model.active_peft_config if isinstance(model, PeftModel) else None


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """While this context is open, the module is in evaluation mode; each of its parts then returns to its own mode."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _of_caption(target: Mapping[str, torch.Tensor], caption: Caption) -> dict[str, torch.Tensor]:
    """The objects of a picture whose classes are in the caption; their labels are positions in it."""
    labels, boxes = target["class_labels"], target["boxes"]
    first, last = caption.labels[0], caption.labels[-1]  # a caption holds consecutive classes
    own = (labels >= first) & (labels <= last)
    return {"class_labels": labels[own] - first, "boxes": boxes[own]}


def _check_classes(labels: Labels, number_of_classes: int) -> None:
    for i, target in enumerate(labels):
        own = target["class_labels"]
        wrong = own[(own < 0) | (own >= number_of_classes)].tolist()
        if wrong:
            raise ValueError(
                f"Picture {i} has class_labels {wrong}, but the detector has {number_of_classes} classes, counted "
                "from 0. Map the categories of the data set to the positions in class_names."
            )
