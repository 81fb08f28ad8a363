"""Keeps on disk what a frozen CLIP computes, so that later runs need not compute it again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Optional

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save_file

from .flags import Options, at_least, flag
from .storage import PARTIAL


log = logging.getLogger(__name__)

FOLDER_VARIABLE = "PEFT_MUDPT_CACHE"
OFF = "off"
OWN = re.compile(rf"[0-9a-f]{{64}}(\.safetensors|\.[0-9a-f]{{32}}{re.escape(PARTIAL)})")  # names of the files
KEY, DIGEST, TENSOR = "key", "sha256", "tensor"  # in a file: two fields of the metadata, and the name of the tensor
ABANDONED = 3600  # seconds after which a file that is not complete has no writer


@dataclass(frozen=True)
class CacheOptions(Options):
    """Options of the cache. They do not change the result. `--help` describes each."""

    title: ClassVar[str] = "the cache"

    feature_cache: Optional[str] = flag(
        None,
        "Folder in which later runs find the image features and the zero-shot predictions of frozen CLIPs. "
        f"'{OFF}': compute them in each run. None: the folder that the variable {FOLDER_VARIABLE} names, or "
        "peft_mudpt in the cache of Hugging Face.",
        metavar="FOLDER",
    )
    feature_cache_size: Annotated[float, at_least(0)] = flag(
        5.0, "Largest size of this folder in GiB. What was not used for the longest time is deleted."
    )

    def cache(self) -> Optional[FeatureCache]:
        """The cache; None if it is off."""
        if self.feature_cache == OFF:
            return None
        folder = self.feature_cache or os.environ.get(FOLDER_VARIABLE) or os.path.join(HF_HOME, "peft_mudpt")
        return FeatureCache(Path(folder), self.feature_cache_size * 2**30)


class FeatureCache:
    """
    Tensors in a folder, each in a file that is named after what the tensor depends on.

    A file holds all of that, and a digest of the tensor. One that is damaged, or that belongs to something else, is
    never used. Several processes may use the folder.

    Args:
        folder: the folder; it is created when something is saved.
        limit: largest size of the folder in bytes.
    """

    def __init__(self, folder: Path, limit: float):
        self.folder = folder
        self.limit = limit

    def load(self, key: Mapping[str, Any]) -> Optional[torch.Tensor]:
        """
        Look a tensor up.

        Args:
            key: what the tensor depends on, as JSON can hold it.

        Returns:
            The tensor, on the CPU; None if it is not there, or its file is damaged.
        """
        text = _as_text(key)
        path = self._path(text)
        try:
            content = path.read_bytes()  # at once: `safe_open` opens a path twice, and a writer may replace the file
            tensor, metadata = load_bytes(content)[TENSOR], _metadata(content)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError) as error:
            log.warning("%s is damaged, and its content is computed again: %s", path, error)
            return None
        if metadata.get(KEY) != text or metadata.get(DIGEST) != digest_of(tensor):
            log.warning("%s is damaged, and its content is computed again.", path)
            return None
        with suppress(OSError):
            os.utime(path)  # it was used
        return tensor

    def save(self, key: Mapping[str, Any], tensor: torch.Tensor) -> None:
        """
        Save a tensor. If that is not possible, as on a full disk, there is only a warning, because a run does not
        depend on it.

        Args:
            key: what the tensor depends on, as JSON can hold it.
            tensor: the tensor.
        """
        text = _as_text(key)
        path = self._path(text)
        tensor = tensor.detach().cpu().contiguous()
        if tensor.nbytes > self.limit:
            return
        partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}{PARTIAL}")  # another process may write the same
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({TENSOR: tensor}, partial, metadata={KEY: text, DIGEST: digest_of(tensor)})
            os.replace(partial, path)
            self._delete_oldest()
        except (OSError, SafetensorError) as error:
            log.warning("%s cannot be written, and later runs compute its content again: %s", path, error)
            with suppress(OSError):
                partial.unlink()

    def _path(self, text: str) -> Path:
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"

    def _delete_oldest(self) -> None:
        """Delete what was not used for the longest time until the folder is small enough, and what has no writer."""
        files = []
        for path in self.folder.iterdir():
            if not OWN.fullmatch(path.name):
                continue
            with suppress(FileNotFoundError):  # another process has completed or deleted it
                state = path.stat()
                if path.suffix == PARTIAL and time.time() - state.st_mtime > ABANDONED:
                    path.unlink()
                elif path.suffix != PARTIAL:
                    files.append((state.st_mtime_ns, state.st_size, path))
        size = sum(one for _, one, _ in files)
        for _, one, path in sorted(files):
            if size <= self.limit:
                break
            path.unlink(missing_ok=True)
            size -= one


def cached(
    accelerator: Accelerator,
    cache: Optional[FeatureCache],
    key: Callable[[], Mapping[str, Any]],
    compute: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """
    Compute a tensor, unless the cache has it.

    Args:
        accelerator: the main one of its processes decides whether all of them compute.
        cache: the cache; None: compute.
        key: makes the key. It is called on the main process.
        compute: computes the tensor on every process.

    Returns:
        The tensor, on the CPU.
    """
    if cache is None:
        return compute()
    wanted = key() if accelerator.is_main_process else {}
    found = [cache.load(wanted) if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    if found[0] is not None:
        return found[0]
    tensor = compute().cpu()
    if accelerator.is_main_process:
        cache.save(wanted, tensor)
    return tensor


def digest_of(*tensors: torch.Tensor) -> str:
    """
    Compute the SHA-256 of the values, shapes and types of tensors.

    Args:
        tensors: any tensors, on any device.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _metadata(content: bytes) -> dict[str, str]:
    """The notes in the bytes of a safetensors file: 8 bytes for the size of the header, then the header in JSON."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]).get("__metadata__", {})


def _as_text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
