"""Exports a classifier as one file that needs neither this package nor CLIP: images in, class probabilities out."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Optional

from ..classifier.pictures import PICTURE_RULE
from ..classifier.prediction import PictureClassifier
from .formats import ExportFormat, check_format, move_into_place, nearest_folder, write
from .programs import classifier_program


def export_classifier(
    classifier: PictureClassifier,
    file: str | os.PathLike,
    format: ExportFormat = "onnx",
    opset_version: Optional[int] = None,
) -> Path:
    """
    Export a classifier with its classes as one file, in float32. The file is loaded once before it replaces an older
    one. An error leaves the older file as it was, and nothing else.

    The exported program takes `pixel_values` (B, 3, H, W) for any B, as the CLIP's image processor makes them, and
    returns `probabilities` (B, C), those of `predict_proba`. The file also contains `class_names` (JSON, in the order
    of the probabilities), `class_template` (not of a linear probe) or, if classes have several texts, `class_texts`
    (JSON, the texts of each class in the order of the probabilities), `picture_rule` (how to open a picture, in words)
    and `preprocessor_config` (JSON: the image processor's settings). An ONNX file has them in its metadata, a
    `torch.export` archive as extra files.

    The file holds the vision tower and one feature per class, or one per class and domain. If the text prompts of the
    active adapter depend on the image, it also holds the text tower, which the program runs on the texts of all
    classes for each image. For classes that may change after the export, use `export_encoders`.

    ONNX holds at most 2 GB in one file. torch writes larger weights (above 1.5 GiB) to a second file, which has the
    name of the first and `.data`. Keep both in one folder.

    Args:
        classifier: the classifier, a `MuDPTClassifier` or a linear probe of the lab; the file contains the adapter
            that is active now.
        file: path of the new file, such as `classifier.onnx` or `classifier.pt2`.
        format: `onnx`, for onnxruntime and others (needs the extra `export`), or `torch_export`, for
            `torch.export.load` and AOTInductor.
        opset_version: the version of ONNX's operators, from 18 on; None: torch's default. An older runtime may not
            know those of the default.

    Returns:
        The path of the file.

    Raises:
        ValueError: if there is no such format, or none of this `opset_version`; if `file` is a folder, the CLIP takes
            images of any size (SigLIP 2 NaFlex), or a file of the weights is in the way that belongs to no older
            `file`.
        ImportError: if the packages that write the format are not installed.
    """
    check_format(format, opset_version)
    file = Path(file)
    if file.is_dir():
        raise ValueError(f"{file} is a folder; give the name of a file.")
    program = classifier_program(classifier)
    known = notes_of(classifier).items()
    notes = {name: value if isinstance(value, str) else json.dumps(value) for name, value in known}
    notes["preprocessor_config"] = classifier.image_processor.to_json_string()
    with tempfile.TemporaryDirectory(dir=nearest_folder(file)) as partial:
        written = Path(partial) / file.name
        write(program, written, notes, format, opset_version)
        move_into_place(written, file)
    return file


def notes_of(classifier: PictureClassifier) -> dict[str, Any]:
    """
    What a user of exported files must know: the classes, their texts, and how to open a picture.

    Args:
        classifier: the classifier.

    Returns:
        `class_names`, `picture_rule` and, if the classifier has texts, `class_template` or `class_texts`.
    """
    notes: dict[str, Any] = {"class_names": classifier.class_names, "picture_rule": PICTURE_RULE}
    if classifier.template is not None:
        notes["class_template"] = classifier.template
    elif classifier.class_texts is not None:
        notes["class_texts"] = classifier.class_texts
    return notes
