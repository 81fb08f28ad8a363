"""Loads the classifier that a run left."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import torch
from peft import PeftConfig

from ..calibration.calibration import Calibration
from ..classifier.class_texts import ClassTexts, active_config, remembered_texts
from ..classifier.classifier import MuDPTClassifier
from ..classifier.loading import check_base_folder, find_adapter
from ..classifier.prediction import PictureClassifier
from ..classifier.saving import read_classes
from ..config import MuDPTConfig
from .backbone import Backbone, BackboneOptions
from .heads import Head
from .learner import HEADS
from .run_folder import ADAPTER_CONFIG, RUN
from .saving import find_file, load_head
from .schema import RESULT, read_result
from .storage import read_json


CLIP_FLAG = "--model_name_or_path"


def load_classifier(
    adapter: str | os.PathLike,
    class_names: Optional[list[str]] = None,
    template: Optional[str] = None,
    model_name_or_path: Optional[str] = None,
) -> PictureClassifier:
    """
    Load the classifier that a run left: an adapter of this package, a LoRA adapter of PEFT, a head such as a linear
    probe, or, of a zero-shot run, the plain CLIP.

    The arguments are checked before a model is loaded.

    Args:
        adapter: a folder of `examples/fewshot.py`, a folder with `adapter_config.json`, or a Hub id.
        class_names: the classes; None: those the adapter was trained on, from its config or its `result.json`.
        template: text of a class that follows the text prompts, with `{}` for the name; None: the text used in
            training.
        model_name_or_path: the CLIP; None: the one that the adapter or the run names.

    Returns:
        The classifier.

    Raises:
        ValueError: if the adapter or its CLIP is missing, if an argument is None and the adapter does not provide its
            value, or if classes or a template are given for a head.
    """
    classifier = _load(adapter, class_names, template, model_name_or_path)
    if not isinstance(classifier, MuDPTClassifier) or active_config(classifier.model) is None:
        _recall_calibration(classifier, adapter)
    return classifier


def _load(
    adapter: str | os.PathLike,
    class_names: Optional[list[str]],
    template: Optional[str],
    model_name_or_path: Optional[str],
) -> PictureClassifier:
    """Load a classifier (see `load_classifier`)."""
    folder = Path(adapter)
    for kind in HEADS:
        if not (folder / kind.file).is_file():
            continue
        if class_names is not None or template is not None:
            raise ValueError(
                f"{folder} holds {kind.words}, which knows only the classes that it was trained on, and no texts. "
                "Leave out --classes and --template."
            )
        return _load_head(kind, folder, model_name_or_path)
    found, config = (folder, None) if _is_zero_shot(folder) else find_adapter(adapter)
    texts = None if template is None else ClassTexts.given(template)
    if class_names is None or texts is None:
        stored_names, stored_texts = _stored_classes(config, adapter, found)
        class_names = stored_names if class_names is None else class_names
        texts = texts or stored_texts
    if class_names is None:
        raise ValueError(
            f"The adapter {adapter} does not store the classes it was trained on. Give class names "
            '(--classes "cat,dog").'
        )
    if texts is None:
        raise ValueError(
            f"The adapter {adapter} does not store the text of a class. Give the text that follows the text prompts, "
            'such as "{}." (--template).'
        )
    texts = texts.only(class_names, f"The adapter {adapter}")
    if config is None:
        backbone = _backbone(folder, model_name_or_path)
        return backbone.classifier(backbone.load_clip(), class_names, texts)
    base = model_name_or_path or config.base_model_name_or_path
    if not base:
        raise ValueError(f"The adapter {adapter} does not name its CLIP. Give it ({CLIP_FLAG}).")
    check_base_folder(base, CLIP_FLAG)
    return MuDPTClassifier.from_pretrained(adapter, class_names, base_model_name_or_path=base, **texts.as_arguments())


def result_of(adapter: str | os.PathLike) -> dict[str, Any]:
    """
    Read the result of the run that made an adapter.

    Args:
        adapter: the folder or the Hub id of the adapter.

    Returns:
        The result, with the fields of `schema.FIELDS`; empty if there is none.

    Raises:
        ValueError: if it is damaged.
    """
    file = find_file(adapter, RESULT)
    return {} if file is None else read_result(file.parent) or {}


def _load_head(kind: type[Head], folder: Path, model_name_or_path: Optional[str]) -> Head:
    result = read_result(folder)
    if result is None:
        raise ValueError(f"{folder} holds {kind.words}, but no {RESULT}, which stores its classes. Train it again.")
    backbone = _backbone(folder, model_name_or_path)
    return load_head(kind, folder, backbone.load_clip(), result["class_names"], backbone.image_processor)


def _recall_calibration(classifier: PictureClassifier, adapter: str | os.PathLike) -> None:
    """Take the calibration from the result, if it is of the same classes and texts; no config of ours stores it."""
    result = result_of(adapter)
    stored = result.get("calibration")
    if stored is None or result["class_names"] != classifier.class_names:
        return
    texts = _texts_of(result)
    if classifier.class_texts is None or (texts and texts.of(classifier.class_names) == classifier.class_texts):
        classifier.calibration = Calibration(**stored)


def _texts_of(result: Mapping[str, Any]) -> Optional[ClassTexts]:
    """The texts of the training classes, after the text prompts, in a result; None if it has none."""
    arguments = result.get("class_texts") or {"template": result.get("template_after_prompts")}
    return ClassTexts.given(**arguments) if any(arguments.values()) else None


def _backbone(folder: Path, model_name_or_path: Optional[str]) -> Backbone:
    """The CLIP of a run that left no adapter; `model_name_or_path` replaces the one that the run names."""
    revision, run = None, folder / RUN
    # which has the whole path of a local CLIP, but the result, which may be uploaded, only its name
    arguments = read_json(run) if run.is_file() else (read_result(folder) or {})["arguments"]
    if model_name_or_path is None:
        model_name_or_path, revision = arguments["model_name_or_path"], arguments.get("model_revision")
    source = BackboneOptions(model_name_or_path, revision).source()
    check_base_folder(source.name_or_path, CLIP_FLAG)
    return Backbone.load(source, torch.device("cpu"), image_size=arguments.get("image_size"))


def _is_zero_shot(folder: Path) -> bool:
    """True if a folder holds the result of a run that saved no weights, because it learned nothing."""
    if (folder / ADAPTER_CONFIG).exists():
        return False
    result = read_result(folder)
    return result is not None and result["adapter_bytes"] == 0


def _stored_classes(
    config: Optional[PeftConfig], adapter: str | os.PathLike, folder: Path
) -> tuple[Optional[list[str]], Optional[ClassTexts]]:
    """
    Find the training classes and their texts after the prompts, in the config, beside it, or in the result; None if
    not stored.
    """
    if isinstance(config, MuDPTConfig):
        texts = remembered_texts(config)
        if config.class_names is not None or texts is not None:
            return config.class_names, texts
    if (known := read_classes(folder)) is not None:  # the config of LoRA cannot store them
        return known.class_names, known.texts
    result = result_of(adapter)
    return result.get("class_names"), _texts_of(result)
