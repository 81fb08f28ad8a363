"""Finds an adapter and its base model, in folders and on the Hub, and loads the parts of the base model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..config import MuDPTType
from ..rules import TEXT, either
from ..sdpt.config import SDPTType
from ..settings import UNREADABLE


HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")  # arguments that each download takes
# The class that loads the adapters of a method, by `peft_type`. Those of other methods, such as LoRA, suit any class.
LOADERS = {MuDPTType.MUDPT: "MuDPTClassifier", SDPTType.SDPT: "FusionDetector"}


@dataclass(frozen=True)
class ModelSource:
    """
    Where a model, its tokenizer and its image processor are loaded from. No code of a repository is run.

    Args:
        name_or_path: Hub id or folder.
        revision: branch, tag or commit of the Hub repository; None: its main branch. A folder has no revisions.
        hub: arguments of each download, of `HUB_OPTIONS`.
    """

    name_or_path: str
    revision: Optional[str] = None
    hub: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any, argument: str) -> ModelSource:
        """
        Where a model was loaded from. Only its adapters record the revision.

        Args:
            model: a model of transformers, plain or with an adapter.
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

    def _options_if_reachable(self) -> dict[str, Any]:
        """
        The options, after one file of the Hub was asked for. Without a network, transformers would ask for several,
        each with all retries of the Hub's client, before it says that there is none.
        """
        if not Path(self.name_or_path).is_dir():
            PretrainedConfig.get_config_dict(self.name_or_path, **self._options)
        return self._options

    def config(self) -> PretrainedConfig:
        """Load the config, without weights."""
        return AutoConfig.from_pretrained(self.name_or_path, **self._options)

    def clip(self, **model_kwargs) -> PreTrainedModel:
        """Load a CLIP, in float32 unless `model_kwargs`, those of `AutoModel.from_pretrained`, say otherwise."""
        return self._model(AutoModel, model_kwargs)

    def detector(self, **model_kwargs) -> PreTrainedModel:
        """Load a detector with its heads, as `clip` loads a CLIP."""
        return self._model(AutoModelForZeroShotObjectDetection, model_kwargs)

    def _model(self, auto_class: Any, model_kwargs: dict[str, Any]) -> PreTrainedModel:
        model_kwargs.setdefault("dtype", model_kwargs.pop("torch_dtype", torch.float32))  # the older name, too
        return auto_class.from_pretrained(self.name_or_path, **{**self._options_if_reachable(), **model_kwargs})

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer. Raises a ValueError if there is none."""
        tokenizer = AutoTokenizer.from_pretrained(self.name_or_path, **self._options_if_reachable())
        if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes one without words if files lack
            raise ValueError(
                f"{self.name_or_path} holds a model, but no tokenizer. Save that of the model there "
                "(tokenizer.save_pretrained), or give it as tokenizer=."
            )
        return tokenizer

    def image_processor(self, image_size: Optional[int] = None) -> BaseImageProcessor:
        """
        Load the image processor. `image_size` is the number of pixels of both sides of the images that it makes; None:
        as it is stored.
        """
        options = self._options_if_reachable()
        processor = AutoProcessor.from_pretrained(self.name_or_path, backend="pil", **options).image_processor
        return processor if image_size is None else _with_image_size(processor, image_size)


def _with_image_size(processor: Any, image_size: int) -> BaseImageProcessor:
    """An image processor like this one, whose images have this size. It crops the same part of a picture."""
    size, crops = dict(processor.size), getattr(processor, "do_center_crop", False)
    before = dict(processor.crop_size)["height"] if crops else size.get("height", size.get("shortest_edge"))
    if before == image_size:
        return processor
    changed: dict[str, Any] = {"size": {name: round(side * image_size / before) for name, side in size.items()}}
    if crops:
        changed["crop_size"] = {"height": image_size, "width": image_size}
    return type(processor).from_dict({**processor.to_dict(), **changed})


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


def check_method(adapter: str | os.PathLike, config: PeftConfig, loader: str) -> None:
    """
    Refuse an adapter of a method that another class loads.

    Args:
        adapter: folder or Hub id of the adapter, for messages.
        config: the adapter's config.
        loader: the name of the class that is to load it, as in `LOADERS`.

    Raises:
        ValueError: if its method is for another kind of model.
    """
    right = LOADERS.get(cast(Any, config.peft_type), loader)
    if right != loader:
        raise ValueError(
            f"{adapter} is an adapter of the type {cast(Any, config.peft_type).value}, which {loader} does not load. "
            f"Load it with {right}.from_pretrained."
        )


def find_base(
    adapter: str | os.PathLike,
    config: PeftConfig,
    base: Optional[str | os.PathLike] = None,
    revision: Optional[str] = None,
    **hub,
) -> ModelSource:
    """
    Find the base model of an adapter. It warns if one is given that is not the recorded one.

    Args:
        adapter: folder or Hub id of the adapter, for messages.
        config: the adapter's config, which records the base model and its revision.
        base: Hub id or folder of the base model; None: the recorded one.
        revision: the revision of the base model; None: the recorded one, if the model is.
        **hub: arguments of the downloads, of `HUB_OPTIONS`.

    Raises:
        ValueError: if no base model is given and none is recorded, or if it is a folder that does not exist.
    """
    recorded = config.base_model_name_or_path
    base = recorded if base is None else os.fspath(base)
    if not base:
        raise ValueError(f"The adapter {adapter} does not name its base model. Give base_model_name_or_path.")
    check_base_folder(base, "base_model_name_or_path")
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
    return ModelSource(base, revision, hub)


def check_base_folder(name: str, argument: str) -> None:
    """
    Refuse the path of a folder that does not exist: the error of the Hub would only say that it is no id.

    Args:
        name: Hub id or folder of a base model.
        argument: the argument or flag by which another one can be given.

    Raises:
        ValueError: if the name can only be that of a folder, and there is none.
    """
    if (Path(name).is_absolute() or name.startswith((".", "~"))) and not Path(name).is_dir():
        raise ValueError(
            f"The base model {name} is not a folder on this machine. Give the one that the adapter was trained on "
            f"({argument})."
        )


def _is_same(base: str, recorded: str) -> bool:
    """Whether two names can mean the same model. A folder may have been moved or renamed up to its last part."""
    if base == recorded:
        return True
    are_folders = [Path(name).is_dir() or Path(name).is_absolute() for name in (base, recorded)]
    return any(are_folders) and Path(base).resolve().name == Path(recorded).resolve().name
