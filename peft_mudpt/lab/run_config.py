"""Writes the flags of a finished run to a file that runs it again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config_file import is_json
from .identity import MODEL_FINGERPRINTS, OBJECTIVE, PICTURES, PROCESSES, TASK, as_identity
from .run_folder import RUN, read_identity
from .schema import RESULT, read_result
from .storage import write_text


NO_FLAGS = (TASK, OBJECTIVE, PROCESSES, PICTURES, MODEL_FINGERPRINTS)  # in the options of a run, but no flags
FROM_FILES = ("templates", "descriptions")  # of which a run keeps a fingerprint only


def config_of_run(folder: str | os.PathLike) -> dict[str, Any]:
    """
    Find the flags that determine the result of a run of examples/fewshot.py or fewshot_detection.py.

    Args:
        folder: the folder of the run. `run.json` has whole paths. Without it, those of `result.json` are names only.

    Returns:
        The values by name of flag, without those that are None.

    Raises:
        ValueError: if the folder holds neither file, or if the run used texts of classes from files, of which it
            keeps no copy.
    """
    asked = read_identity(Path(folder)) or (read_result(Path(folder)) or {}).get("arguments")
    if asked is None:
        raise ValueError(f"{folder} holds neither {RUN} nor {RESULT}. Give the folder of a run.")
    config = {name: value for name, value in as_identity(asked).items() if name not in NO_FLAGS}
    lost = [name for name in FROM_FILES if "SHA-256" in (config.get(name) or "")]
    if lost:
        raise ValueError(
            f"The run in {folder} read {' and '.join(lost)} from a file, of which it keeps a fingerprint only. Write "
            "its flags by hand."
        )
    return {name: value for name, value in config.items() if value is not None}


def write_config(config: Mapping[str, Any], file: str | os.PathLike) -> None:
    """
    Write flags to a file that `--config` reads.

    Args:
        config: values by name of flag, such as those of `config_of_run`.
        file: a new file that ends in .yaml, .yml or .json.

    Raises:
        ValueError: if the file exists, or has another suffix.
    """
    import yaml

    path = Path(file)
    as_json = is_json(path)
    if path.exists():
        raise ValueError(f"{path} exists. Give a new file.")
    if as_json:
        write_text(path, json.dumps(dict(config), indent=1, ensure_ascii=False) + "\n")
    else:
        write_text(path, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
