"""Finds an adapter and its CLIP, in folders and on the Hub, and loads the parts of the CLIP."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from transformers import (
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..rules import TEXT, either
from ..settings import UNREADABLE


HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")  # arguments that each download takes


@dataclass(frozen=True)
class ClipSource:
    """
    Where a CLIP, its tokenizer and its image processor are loaded from. No code of a repository is run.

    Args:
        name_or_path: Hub id or folder.
        revision: branch, tag or commit of the Hub repository; None: its main branch. A folder has no revisions.
        hub: arguments of each download, of `HUB_OPTIONS`.
    """

    name_or_path: str
    revision: Optional[str] = None
    hub: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any, argument: str) -> ClipSource:
        """
        Where a CLIP was loaded from. Only its adapters record the revision.

        Args:
            model: a CLIP, plain or with an adapter.
            argument: what the error asks for.

        Raises:
            ValueError: if it was not loaded from a folder or the Hub.
        """
        if not model.name_or_path:
            raise ValueError(
                f"The model was not loaded from a folder or a Hub id that could hold a {argument}; give one."
            )
        adapters = getattr(model, "peft_config", {}).values()
        recorded = [a.revision for a in adapters if a.revision and a.base_model_name_or_path == model.name_or_path]
        return cls(model.name_or_path, recorded[0] if recorded else None)

    @property
    def _options(self) -> dict[str, Any]:
        """Without `trust_remote_code`, transformers would ask on the terminal whether to run code of a repository."""
        return {"revision": self.revision, "trust_remote_code": False, **self.hub}

    def clip(self, **model_kwargs) -> PreTrainedModel:
        """Load the weights, in float32 unless `model_kwargs`, those of `AutoModel.from_pretrained`, say otherwise."""
        model_kwargs.setdefault("dtype", model_kwargs.pop("torch_dtype", torch.float32))  # the older name, too
        options = {**self._options, **model_kwargs}
        return AutoModel.from_pretrained(self.name_or_path, **options)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer."""
        return AutoTokenizer.from_pretrained(self.name_or_path, **self._options)

    def image_processor(self) -> BaseImageProcessor:
        """Load the image processor."""
        return AutoProcessor.from_pretrained(self.name_or_path, backend="pil", **self._options).image_processor


def find_adapter(
    adapter: str | os.PathLike, revision: Optional[str] = None, subfolder: Optional[str] = None, **hub
) -> tuple[Path, PeftConfig]:
    """
    Find a saved adapter, and read its config.

    Args:
        adapter: folder or Hub id. The files of the Hub are downloaded.
        revision: branch, tag or commit of the adapter's Hub repository; None: its main branch.
        subfolder: the part of the folder or repository that holds the adapter; None: its root.
        **hub: arguments of the download, of `HUB_OPTIONS`.

    Returns:
        The folder that holds the adapter's files, and its config.

    Raises:
        ValueError: if there is no adapter, or one without weights. If subfolders hold adapters, the error lists them.
    """
    root = Path(adapter)
    if not root.is_dir():
        try:
            files = f"{subfolder}/adapter_*" if subfolder else "adapter_*"
            root = Path(snapshot_download(os.fspath(adapter), revision=revision, allow_patterns=files, **hub))
        except (OSError, ValueError, HfHubHTTPError) as error:
            raise ValueError(
                f"{adapter} is neither a folder nor a Hub id of an adapter ({error}). Give one of them."
            ) from error
    folder = root / (subfolder or "")
    if not (folder / CONFIG_NAME).is_file():
        found = sorted(config.parent.relative_to(root).as_posix() for config in root.glob(f"*/{CONFIG_NAME}"))
        others = f", but its subfolders hold adapters: {', '.join(found)}. Give one with subfolder=" if found else ""
        place = adapter if subfolder is None else f"The subfolder {subfolder} of {adapter}"
        raise ValueError(f"{place} holds no {CONFIG_NAME}{others or '. Give the folder of a saved adapter'}.")
    try:
        config = PeftConfig.from_pretrained(os.fspath(folder))
        either(TEXT, None).check(config.base_model_name_or_path, "base_model_name_or_path")
        either(TEXT, None).check(config.revision, "revision")
    except UNREADABLE as error:
        raise ValueError(
            f"{adapter} has an unreadable {CONFIG_NAME} ({error}). Give the folder or the Hub id of an adapter."
        ) from error
    if not any((folder / name).is_file() for name in (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME)):
        raise ValueError(
            f"{folder} holds no weights ({SAFETENSORS_WEIGHTS_NAME}), only {CONFIG_NAME}. Save the adapter again."
        )
    return folder, config


def find_base(
    adapter: str | os.PathLike,
    config: PeftConfig,
    base: Optional[str | os.PathLike] = None,
    revision: Optional[str] = None,
    **hub,
) -> ClipSource:
    """
    Find the CLIP of an adapter. It warns if a CLIP is given that is not the recorded one.

    Args:
        adapter: folder or Hub id of the adapter, for messages.
        config: the adapter's config, which records the CLIP and its revision.
        base: Hub id or folder of the CLIP; None: the recorded one.
        revision: the revision of the CLIP; None: the recorded one, if the CLIP is.
        **hub: arguments of the downloads, of `HUB_OPTIONS`.

    Raises:
        ValueError: if no CLIP is given and none is recorded, or if it is a folder that does not exist.
    """
    recorded = config.base_model_name_or_path
    base = recorded if base is None else os.fspath(base)
    if not base:
        raise ValueError(f"The adapter {adapter} does not name its CLIP. Give base_model_name_or_path.")
    check_clip_folder(base, "base_model_name_or_path")
    is_recorded = not recorded or _is_same(base, recorded)
    if revision is None and is_recorded:
        revision = config.revision
    if not is_recorded or (config.revision and revision != config.revision):
        given, trained = (
            f"{name}, revision {tag}" if tag else f"{name}"
            for name, tag in ((base, revision), (recorded, config.revision))
        )
        warnings.warn(
            f"The adapter {adapter} was trained on {trained}, but it is put on {given}. Its predictions can be wrong.",
            stacklevel=3,
        )
    return ClipSource(base, revision, hub)


def check_clip_folder(name: str, argument: str) -> None:
    """
    Refuse the path of a folder that does not exist: the error of the Hub would only say that it is no id.

    Args:
        name: Hub id or folder of a CLIP.
        argument: the argument or flag by which another one can be given.

    Raises:
        ValueError: if the name can only be that of a folder, and there is none.
    """
    if (Path(name).is_absolute() or name.startswith((".", "~"))) and not Path(name).is_dir():
        raise ValueError(
            f"The CLIP {name} is not a folder on this machine. Give the CLIP that the adapter was trained on "
            f"({argument})."
        )


def _is_same(base: str, recorded: str) -> bool:
    """Whether two names can mean the same CLIP. A folder may have been moved or renamed up to its last part."""
    if base == recorded:
        return True
    are_folders = [Path(name).is_dir() or Path(name).is_absolute() for name in (base, recorded)]
    return any(are_folders) and Path(base).resolve().name == Path(recorded).resolve().name
