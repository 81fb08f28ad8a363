"""The identity of a run: two runs are the same experiment if all options that determine the result are equal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from .backbone import BackboneOptions
from .data.options import DataOptions
from .flags import Options
from .methods import MethodOptions, find_method
from .protocols import ProtocolOptions
from .recipe import TrainingOptions
from .schema import in_current_words


DECIDING = (BackboneOptions, MethodOptions, DataOptions, ProtocolOptions, TrainingOptions)
# These change how the work is divided, but not the result.
NOT_DECIDING = ("per_device_eval_batch_size", "dataloader_num_workers", "class_batch_size")
OBJECTIVE = "objective"  # no flag: the method's record names it
PATHS = ("model_name_or_path", "train_dir", "test_dir", "class_names", "split", "coop_root")


def what_was_asked(*groups: Options) -> dict[str, Any]:
    """
    Collect the options that determine a result.

    Args:
        groups: groups of options. Options that do not determine the result, such as --output_dir, are dropped.

    Returns:
        The values by flag name, and the loss of the method under "objective" if `groups` name a method.
    """
    names = [option.name for kind in DECIDING for option in fields(kind) if option.name not in NOT_DECIDING]
    given = {name: value for group in groups for name, value in asdict(group).items()}
    asked = {name: given[name] for name in names if name in given}
    return {**asked, OBJECTIVE: find_method(given["method"]).objective} if "method" in given else asked


def as_identity(asked: Mapping[str, Any]) -> dict[str, Any]:
    """
    Normalize the options of a run, so that runs can be compared.

    A file that an earlier version of this package wrote lacks flags that were added later. These get their defaults,
    because the default of a new flag is the behavior of the earlier version.

    Args:
        asked: options by flag name.

    Returns:
        All options that determine a result, by flag name. `method_kwargs` is a dict, or None instead of an empty one.
    """
    identity = in_current_words({**what_was_asked(*(kind() for kind in DECIDING)), **asked})
    if identity["method_kwargs"] is not None:
        identity["method_kwargs"] = json.loads(identity["method_kwargs"]) or None
    return identity


def differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """
    Describe how two runs differ.

    Args:
        there: options of the stored run.
        asked: options of the requested run.

    Returns:
        The flags with different values, as text; empty if the runs are the same experiment.
    """
    there, asked = as_identity(there), as_identity(asked)
    return "; ".join(
        f"{name}: {there.get(name)!r} there, {asked.get(name)!r} requested"
        for name in {**asked, **there}
        if there.get(name) != asked.get(name)
    )


def to_share(asked: Mapping[str, Any]) -> dict[str, Any]:
    """
    Replace absolute paths by the names of their folders, because a result may be uploaded.

    Args:
        asked: options by flag name.

    Returns:
        The same options without absolute paths.
    """
    return {
        name: Path(value).name if name in PATHS and value and Path(value).is_absolute() else value
        for name, value in asked.items()
    }
