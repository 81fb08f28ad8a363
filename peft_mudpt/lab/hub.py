"""The way of a finished run to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .run_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD
from .schema import RESULT


if TYPE_CHECKING:
    from huggingface_hub import RepoUrl

UPLOADED = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, RESULT)


def create_hub_repo(hub_model_id: str, private: bool) -> str:
    """
    Make sure of the model repository on the Hub, before anything is trained for it. One that exists stays as it is.

    Args:
        hub_model_id: "user/name", or "name" for the user who is logged in.
        private: whether a new repository is private.

    Returns:
        The full id, "user/name".

    Raises:
        ValueError: if that can be no id.
        OSError: if nobody is logged in, or the Hub cannot be reached or refuses.
    """
    return _hub_repo(hub_model_id, private).repo_id


def push_to_hub(folder: Path, hub_model_id: str, private: bool) -> str:
    """
    Upload a trained adapter: its config, its weights, its card and its result, and nothing else of the folder.

    Args:
        folder: holds these four files.
        hub_model_id: as for `create_hub_repo`.
        private: whether a new repository is private.

    Returns:
        The URL of the repository.

    Raises:
        FileNotFoundError: if one of the files is missing; nothing is uploaded.
        ValueError, OSError: as for `create_hub_repo`.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    missing = [name for name in UPLOADED if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}: only a finished experiment can be uploaded.")
    url = _hub_repo(hub_model_id, private)
    HfApi(token=True).upload_folder(
        repo_id=url.repo_id,
        folder_path=folder,
        allow_patterns=list(UPLOADED),
        commit_message="Adapter trained with peft_mudpt",
    )
    return str(url)


def _hub_repo(hub_model_id: str, private: bool) -> RepoUrl:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError  # HTTPError: of whichever client it uses

    try:
        # token=True: without a login, even a repository that exists already is refused
        return HfApi(token=True).create_repo(hub_model_id, private=private, exist_ok=True)
    except HFValidationError as error:
        raise ValueError(f"{hub_model_id!r} is no id of a model on the Hub; give 'user/name' ({error}).") from error
    except (OSError, HTTPError) as error:
        raise OSError(
            f"The Hub does not give the model repository {hub_model_id!r}: {error}\nLog in with `hf auth login` and a "
            "token that may write there, correct the id, or do without the Hub."
        ) from error
