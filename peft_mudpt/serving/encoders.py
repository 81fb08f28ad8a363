"""Exports the image encoder and the text encoder of a classifier as two files, so that classes can change later."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Optional

import torch

from ..classifier.classifier import MuDPTClassifier
from ..classifier.prediction import PictureClassifier
from ..classifier.texts import tokenize_texts
from ..layer import MuDPTLayer, layer_of, logit_scale_of, logit_shift_of
from .exporting import notes_of
from .formats import SUFFIXES, ExportFormat, check_format, nearest_folder, write
from .programs import room_for_text, text_program, vision_program


SETTINGS = "encoders.json"
WITH_CLASSES = "Export it with its classes, as one file (export_classifier)."


def export_encoders(
    classifier: PictureClassifier,
    folder: str | os.PathLike,
    format: ExportFormat = "onnx",
    opset_version: Optional[int] = None,
) -> Path:
    """
    Export the image encoder and the text encoder of a classifier as two files, in float32, with what is needed to
    classify with them and any classes. Each file is loaded once. An error leaves nothing behind.

    The folder holds, with the suffix `.onnx` or `.pt2`:

    - `vision_model`: `pixel_values` (B, 3, H, W) to `image_embeds` (B, D), each with L2 norm 1, for any B.
    - `text_model`: `input_ids` (T, L) to `text_embeds` (T, D), each with L2 norm 1, for any T, and L from 3 on (of
      SigLIP, for the full length). The text prompts are inside: texts are tokenized without a place for them. AltCLIP,
      Chinese CLIP and TIPSv2 also take `attention_mask` (T, L).
    - `tokenizer.json` and its settings: it pads as the text encoder needs.
    - `preprocessor_config.json`: the settings of the image processor.
    - `encoders.json`: `logit_scale` and `logit_bias`, `max_length` (the tokens that a text may have, with those that
      the tokenizer adds), `class_names`, `class_template` or `class_texts`, and `picture_rule`.

    The logits (B, T) are `logit_scale * image_embeds @ text_embeds.T + logit_bias`; the probabilities are their
    softmax.

    Args:
        classifier: the classifier; the files contain the adapter that is active now.
        folder: the new folder.
        format: the format of the two files, `onnx` or `torch_export` (see `export_classifier`).
        opset_version: the version of ONNX's operators, from 18 on; None: torch's default.

    Returns:
        The path of the folder.

    Raises:
        ValueError: if there is no such format, or none of this `opset_version`; if `folder` exists, the classifier has
            no text encoder, the text features of the active adapter depend on more than the texts, or the CLIP takes
            images of any size (SigLIP 2 NaFlex).
        ImportError: if the packages that write the format are not installed.
    """
    check_format(format, opset_version)
    if not isinstance(classifier, MuDPTClassifier):
        raise ValueError(f"A {type(classifier).__name__} has no text encoder. {WITH_CLASSES}")
    _check_texts_alone(classifier)
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} already exists; give a new folder.")
    programs = {"vision_model": vision_program(classifier), "text_model": text_program(classifier)}
    with tempfile.TemporaryDirectory(dir=nearest_folder(folder)) as partial:
        written = Path(partial) / folder.name
        written.mkdir()
        for name, program in programs.items():
            write(program, written / f"{name}{SUFFIXES[format]}", {}, format, opset_version)
        _save_tokenizer(classifier, written)
        classifier.image_processor.save_pretrained(written)
        text = json.dumps(_settings(classifier), indent=1, ensure_ascii=False)
        (written / SETTINGS).write_text(text + "\n", encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.rename(written, folder)
    return folder


def _check_texts_alone(classifier: MuDPTClassifier) -> None:
    """Refuse a classifier whose text features depend on more than the texts."""
    layer = layer_of(classifier.model)
    other = None if layer is None else _beside_texts(layer)
    if layer is not None and other is not None:
        raise ValueError(
            f"The text features of the adapter {layer.active_name!r} depend on the {other}, and not on the texts "
            f"alone, so that it has no text encoder for other classes. {WITH_CLASSES}"
        )


def _beside_texts(layer: MuDPTLayer) -> Optional[str]:
    """What the text features of the active adapter depend on beside the texts; None: on nothing."""
    if layer.text_depends_on_image:
        return "image"
    if layer.text_depends_on_class or layer.num_class_contexts:
        return "class"
    return "domains of the image" if layer.num_domains else None


def _save_tokenizer(classifier: MuDPTClassifier, folder: Path) -> None:
    """Save the tokenizer so that whoever loads its file pads as the text encoder needs."""
    tokenizer, family = copy.deepcopy(classifier.tokenizer), classifier.family
    # a tokenizer of the library tokenizers keeps the padding of its last call, in its file, too
    tokenize_texts(tokenizer, classifier.class_texts, family.text.pad_multiple(family.text_tower(classifier.model)))
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def _settings(classifier: MuDPTClassifier) -> dict[str, Any]:
    family, model = classifier.family, classifier.model
    scale = logit_scale_of(model, family)
    return {
        "logit_scale": scale.item(),
        "logit_bias": family.logits(model, torch.zeros_like(scale), logit_shift_of(model)).item(),
        "max_length": room_for_text(classifier),
        **notes_of(classifier),
    }
