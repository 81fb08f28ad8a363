"""Loads what prediction with a saved adapter needs: its CLIP, its classes, and pictures."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from peft import PeftConfig

from ..classifier.classifier import MuDPTClassifier
from ..classifier.loading import find_adapter
from ..rules import check_template
from .schema import RESULT, read_result


if TYPE_CHECKING:
    from PIL.Image import Image


def load_classifier(
    adapter: str | os.PathLike,
    class_names: Optional[list[str]] = None,
    template: Optional[str] = None,
    model_name_or_path: Optional[str] = None,
) -> MuDPTClassifier:
    """
    Load a classifier with a saved adapter: one of this package, or a LoRA adapter of PEFT.

    The arguments are checked before a model is loaded.

    Args:
        adapter: a folder with `adapter_config.json`, or a Hub id.
        class_names: the classes; None: those the adapter was trained on, from its config or its `result.json`.
        template: text of a class that follows the text prompts, with `{}` for the name; None: the text used in
            training.
        model_name_or_path: the CLIP; None: the one that the adapter names.

    Returns:
        The classifier.

    Raises:
        ValueError: if the adapter or its CLIP is missing, or if an argument is None and the adapter does not provide
            its value.
    """
    _, config = find_adapter(adapter)
    if class_names is None or template is None:
        stored_names, stored_template = _stored_classes(config, adapter)
        class_names = stored_names if class_names is None else class_names
        template = stored_template if template is None else template
    if class_names is None:
        raise ValueError(
            f"The adapter {adapter} does not store the classes it was trained on. Give class names "
            '(--classes "cat,dog").'
        )
    if template is None:
        raise ValueError(
            f"The adapter {adapter} does not store the text of a class. Give the text that follows the text prompts, "
            'such as "{}." (--template).'
        )
    check_template(template)
    base = model_name_or_path or config.base_model_name_or_path
    if not base:
        raise ValueError(f"The adapter {adapter} does not name its CLIP. Give it (--model_name_or_path).")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ValueError(
            f"The CLIP {base} is not a folder on this machine. Give the CLIP that the adapter was trained on "
            "(--model_name_or_path)."
        )
    return MuDPTClassifier.from_pretrained(adapter, class_names, template, base)


def split_names(text: Optional[str]) -> Optional[list[str]]:
    """
    Split comma-separated class names.

    Args:
        text: the names, such as "cat,dog"; may be None.

    Returns:
        The names; None if `text` is None.

    Raises:
        ValueError: if there are fewer than two names, or one occurs twice.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if len(names) < 2 or not all(names):
        raise ValueError(f"--classes needs at least two comma-separated names; found {names}.")
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise ValueError(f"--classes names {', '.join(map(repr, twice))} more than once. Give each class once.")
    return names


def check_picture(file: str | os.PathLike) -> None:
    """
    Check that a file is a picture. This is fast, because the pixels are not decoded.

    Args:
        file: the path of the file.

    Raises:
        ValueError: if the file does not exist, or is not a picture.
    """
    from PIL import Image

    if not Path(file).is_file():
        raise ValueError(f"{file} is not a file. Give picture files.")
    try:
        with Image.open(file) as picture:
            picture.verify()
    except Exception as error:  # the exception depends on the format
        raise ValueError(f"{file} cannot be read as a picture ({error}). Leave it out.") from error


def read_picture(file: str | os.PathLike) -> Image:
    """
    Read a picture, and rotate it as its EXIF orientation says.

    Args:
        file: the path of the file.

    Returns:
        The picture, in RGB.

    Raises:
        ValueError: if the file is truncated or damaged.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")  # like the training pictures
    except Exception as error:
        raise ValueError(f"{file} is truncated or damaged ({error}). Leave it out.") from error


def _stored_classes(config: PeftConfig, adapter: str | os.PathLike) -> tuple[Optional[list[str]], Optional[str]]:
    """Find the training classes and the text after the prompts, in the config or `result.json`; None if not stored."""
    class_names, template = getattr(config, "class_names", None), getattr(config, "class_template", None)
    if class_names is not None or template is not None:
        return class_names, template
    try:  # the config of LoRA cannot store them, but the result can
        folder = Path(adapter) if Path(adapter).is_dir() else Path(hf_hub_download(os.fspath(adapter), RESULT)).parent
        result = read_result(folder) or {}
    except EntryNotFoundError:
        result = {}
    return result.get("class_names"), result.get("template_after_prompts")
