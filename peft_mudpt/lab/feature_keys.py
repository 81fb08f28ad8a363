"""What the features and the logits of a frozen CLIP depend on: the keys of `feature_cache.FeatureCache`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Optional

import torch
from accelerate import Accelerator
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from ..classifier.bank import eval_mode
from ..classifier.pictures import PICTURE_RULE
from ..classifier.prediction import PictureClassifier
from ..config import Modality
from ..towers.registry import family_of
from .data.fingerprints import fingerprints_of
from .data.loading import PIXEL_VALUES, TestPictures
from .environment import versions
from .feature_cache import digest_of


if TYPE_CHECKING:
    from datasets import Dataset

LIBRARIES = ("pillow", "tokenizers", "torchvision")  # beside `environment.PACKAGES`


def image_features_key(
    accelerator: Accelerator,
    classifier: PictureClassifier,
    image_processor: BaseImageProcessor,
    pictures: Dataset,
    batch_size: int,
) -> dict[str, Any]:
    """
    What the image features of pictures depend on, to the last bit.

    The weights alone do not tell whether an adapter is active, or the strength of LoRA. The feature of the first
    picture does, and its pixel values tell the code of the image processor.

    Args:
        accelerator: its precision, its device and the number of its processes change the last bits.
        classifier: the classifier whose image tower is used, in the mode in which it is used.
        image_processor: the image processor of the CLIP.
        pictures: a split of `FewShotData` with at least one picture.
        batch_size: pictures per device and forward pass.

    Returns:
        The key.

    Raises:
        ValueError: if a picture cannot be read.
    """
    return {
        "kind": "image features",
        **_tower(classifier.model, "vision"),
        "first picture": _encoded(pictures.select([0]), classifier, image_processor),
        "image_processor": image_processor.to_json_string(),
        "picture_rule": PICTURE_RULE,
        "pictures": _digest(fingerprints_of(pictures)),
        "batch": [batch_size, accelerator.num_processes],
        **_circumstances(accelerator, classifier.model),
    }


def logits_key(
    image_features: dict[str, Any],
    classifier: PictureClassifier,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """
    What the logits of a plain CLIP depend on.

    Args:
        image_features: the key of the image features.
        classifier: the classifier, whose model is a CLIP without an adapter.
        tokenizer: the tokenizer of the CLIP.

    Returns:
        The key.
    """
    of_images = {
        id(tensor)  # they are in the other key
        for module in classifier.family.vision.feature_parts(classifier.model)
        for tensor in _tensors(module)
    }
    return {
        "kind": "logits",
        "image features": image_features,
        "config": classifier.config.to_json_string(use_diff=False),
        "weights": digest_of(*(tensor for tensor in _tensors(classifier.model) if id(tensor) not in of_images)),
        **texts_key(tokenizer, classifier.class_texts or []),
    }


def text_bank_key(
    accelerator: Accelerator,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    class_texts: Sequence[Sequence[str]],
    class_batch_size: Optional[int],
) -> dict[str, Any]:
    """
    What the text bank of a frozen CLIP depends on (see `frozen_clip.frozen_text_bank`).

    Args:
        accelerator: the accelerator of the run.
        model: the `PeftModel` of a CLIP, whose adapter is disabled while texts are encoded.
        tokenizer: the tokenizer of the CLIP.
        class_texts: the texts of each class, in the order of the labels.
        class_batch_size: number of texts encoded at a time.

    Returns:
        The key.
    """
    return {
        "kind": "text bank",
        **_tower(model, "text"),
        "batch": class_batch_size,
        **texts_key(tokenizer, class_texts),
        **_circumstances(accelerator, model),
    }


def texts_key(tokenizer: PreTrainedTokenizerBase, class_texts: Sequence[Sequence[str]]) -> dict[str, Any]:
    """
    What tokenized texts are.

    Args:
        tokenizer: the tokenizer of a CLIP.
        class_texts: the texts of each class, in the order of the labels.

    Returns:
        A part of a key.
    """
    texts = [text for texts in class_texts for text in texts]
    return {
        "texts": _digest(list(map(list, class_texts))),
        "tokens": _digest(tokenizer(texts)["input_ids"]),
        "special tokens": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
    }


@torch.no_grad()
def _encoded(pictures: Dataset, classifier: PictureClassifier, image_processor: BaseImageProcessor) -> str:
    """A digest of the pixel values and the features of one picture."""
    pixels = TestPictures(pictures, image_processor)[0][PIXEL_VALUES]  # (3, H, W)
    with eval_mode(classifier):  # dropout would draw random numbers
        features = classifier.image_features(pixels[None].to(classifier.model.device, classifier.model.dtype))
    return digest_of(pixels, features)


def _tower(model: Any, modality: Modality) -> dict[str, Any]:
    """What a tower of a CLIP computes features with."""
    family = family_of(model)
    config = getattr(model.config, f"{modality}_config", model.config)
    return {
        "model": [type(family).__name__, config.to_json_string(use_diff=False)],
        "attention": getattr(config, "_attn_implementation", None),
        "weights": [digest_of(*_tensors(module)) for module in family.towers[modality].feature_parts(model)],
    }


def _circumstances(accelerator: Accelerator, model: Any) -> dict[str, Any]:
    """What the last bits of all results depend on."""
    return {
        "dtype": str(model.dtype),
        "autocast": accelerator.mixed_precision if torch.is_autocast_enabled(accelerator.device.type) else None,
        "device": _name(accelerator.device),
        "versions": {**versions(), **{name: _version(name) for name in LIBRARIES}},
    }


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _version(package: str) -> Optional[str]:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _digest(content: Any) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()
