"""Uploads a finished run to the Hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..classifier.saving import CLASSES
from .run_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, EXAMPLES
from .schema import RESULT


if TYPE_CHECKING:
    from huggingface_hub import RepoUrl

UPLOADED = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, RESULT)
IF_PRESENT = (CLASSES, EXAMPLES)


def create_hub_repo(hub_model_id: str, private: bool) -> str:
    """
    Create a model repository on the Hub. An existing one is not changed.

    Call this before training, so that a missing login or permission is found first.

    Args:
        hub_model_id: "user/name", or "name" for a repository of the user who is logged in.
        private: True to make a new repository private.

    Returns:
        The full id, "user/name".

    Raises:
        ValueError: if the id is malformed.
        OSError: if there is no login, or if the Hub cannot be reached or refuses.
    """
    return _hub_repo(hub_model_id, private).repo_id


def push_to_hub(folder: Path, hub_model_id: str, private: bool) -> str:
    """
    Upload a trained adapter: its config, weights, model card and result, and of a detector the test pictures that the
    card shows. No other file of the folder is uploaded, and no path of this machine: a base model that is a folder is
    left out of the config.

    Args:
        folder: the folder that holds these files.
        hub_model_id: "user/name", or "name" (see `create_hub_repo`).
        private: True to make a new repository private.

    Returns:
        The URL of the repository.

    Raises:
        FileNotFoundError: if one of the files is missing. Nothing is uploaded then.
        ValueError, OSError: as for `create_hub_repo`.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    missing = [name for name in UPLOADED if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}. Only a finished experiment can be uploaded.")
    names = [*UPLOADED, *(name for name in IF_PRESENT if (folder / name).is_file())]
    url = _hub_repo(hub_model_id, private)
    with TemporaryDirectory() as shared:
        for name in names:
            shutil.copy(folder / name, shared)
        leave_out_paths(Path(shared) / ADAPTER_CONFIG)
        HfApi(token=True).upload_folder(
            repo_id=url.repo_id,
            folder_path=Path(shared),
            allow_patterns=names,
            commit_message="Adapter trained with peft_mudpt",
        )
    return str(url)


def leave_out_paths(file: Path) -> None:
    """
    Set the names of models in an adapter's config to null if they are folders of this machine. The name of the folder
    alone would mean a stranger's repository on the Hub. The model card says how to load the adapter without it.

    Args:
        file: the config, which is replaced.
    """
    config = json.loads(file.read_text(encoding="utf-8"))
    for name in ("base_model_name_or_path", "tokenizer_name_or_path"):
        value = config.get(name)
        if value and (Path(value).is_absolute() or Path(value).is_dir()):
            config[name] = None
    file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _hub_repo(hub_model_id: str, private: bool) -> RepoUrl:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError  # HTTPError: that of the HTTP client in use

    try:
        # token=True raises an error without a login, even if the repository exists
        return HfApi(token=True).create_repo(hub_model_id, private=private, exist_ok=True)
    except HFValidationError as error:
        raise ValueError(f"{hub_model_id!r} is not a model id of the Hub; give 'user/name' ({error}).") from error
    except (OSError, HTTPError) as error:
        raise OSError(
            f"The Hub refused to create or open the model repository {hub_model_id!r}: {error}\nLog in with "
            "`hf auth login` and a token that may write to it, correct the id, or leave out --push_to_hub."
        ) from error
