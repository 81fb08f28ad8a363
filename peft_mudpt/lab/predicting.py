"""A saved adapter put to use: its CLIP, the classes it was trained on, and pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from peft import PeftConfig

from ..classifier.classifier import MuDPTClassifier
from ..rules import check_template
from .run_folder import ADAPTER_CONFIG
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
    The classifier of a saved adapter, of this package or of LoRA. Everything is checked before a model is loaded.

    Args:
        adapter: a folder with `adapter_config.json`, or a Hub id.
        class_names: None: those the adapter was trained on, as its config or the `result.json` beside it says.
        template: text of a class as the model is fed it, with `{}` for the name; None: likewise.
        model_name_or_path: the CLIP; None: the one that the adapter names.

    Raises:
        ValueError: if there is no such adapter, it does not remember what was not given, or its CLIP is not there.
    """
    config = _read_config(adapter)
    if class_names is None or template is None:
        remembered_names, remembered_template = _remembered_classes(config, adapter)
        class_names = remembered_names if class_names is None else class_names
        template = remembered_template if template is None else template
    if class_names is None:
        raise ValueError(
            f"The adapter {adapter} does not remember the classes it was trained on. Give class names "
            '(--classes "cat,dog").'
        )
    if template is None:
        raise ValueError(
            f"The adapter {adapter} does not remember the text of a class. Give a template (--template): what stands "
            'after the text prompts, such as "{}.".'
        )
    check_template(template)
    base = model_name_or_path or config.base_model_name_or_path
    if not base:
        raise ValueError(f"The adapter {adapter} does not name its CLIP. Give it (--model_name_or_path).")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ValueError(
            f"The CLIP {base} is no folder on this machine. Give the CLIP that the adapter was trained on "
            "(--model_name_or_path)."
        )
    return MuDPTClassifier.from_pretrained(adapter, class_names, template, base)


def split_names(text: Optional[str]) -> Optional[list[str]]:
    """
    Class names that a user has written with commas between; None for None.

    Raises:
        ValueError: if these are fewer than two names, or one is given twice.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if len(names) < 2 or not all(names):
        raise ValueError(f"--classes needs at least two names with commas between; these are {names}.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--classes names {', '.join(map(repr, twice))} more than once. Give each class once.")
    return names


def check_picture(file: str | os.PathLike) -> None:
    """
    Look at the head of a picture file only, so that a mistake is found before a model is loaded.

    Raises:
        ValueError: if it is no file, or not of a picture.
    """
    from PIL import Image

    if not Path(file).is_file():
        raise ValueError(f"{file} is no file. Give picture files.")
    try:
        with Image.open(file) as picture:
            picture.verify()
    except Exception as error:  # each format of Pillow raises another
        raise ValueError(f"{file} cannot be read as a picture ({error}). Leave it out.") from error


def read_picture(file: str | os.PathLike) -> Image:
    """
    The whole picture, upright, in RGB.

    Raises:
        ValueError: if it breaks off or is damaged.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")  # as the pictures it was trained on
    except Exception as error:
        raise ValueError(f"{file} breaks off or is damaged ({error}). Leave it out.") from error


def _read_config(adapter: str | os.PathLike) -> PeftConfig:
    """The adapter's config, from a folder or the Hub."""
    file = Path(adapter) / ADAPTER_CONFIG
    if Path(adapter).exists() and not file.is_file():
        raise ValueError(f"{adapter} holds no {ADAPTER_CONFIG}: give the folder that an adapter was saved to.")
    try:
        return PeftConfig.from_pretrained(adapter)
    except (ValueError, KeyError, TypeError) as error:
        found = f"has an unreadable {ADAPTER_CONFIG}" if file.is_file() else "is no folder, and no adapter of the Hub"
        raise ValueError(f"{adapter} {found} ({error}). Give a folder or Hub id of an adapter.") from error


def _remembered_classes(config: PeftConfig, adapter: str | os.PathLike) -> tuple[Optional[list[str]], Optional[str]]:
    """The classes the adapter was trained on and the text of one; None for what it does not remember."""
    class_names, template = getattr(config, "class_names", None), getattr(config, "class_template", None)
    if class_names is not None or template is not None:
        return class_names, template
    try:  # the configs of other methods, such as LoRA's, have no place for them
        folder = Path(adapter) if Path(adapter).is_dir() else Path(hf_hub_download(os.fspath(adapter), RESULT)).parent
        result = read_result(folder) or {}
    except EntryNotFoundError:
        result = {}
    return result.get("class_names"), result.get("template_after_prompts")
