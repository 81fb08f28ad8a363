"""What decides the result of a run: two runs that were asked the same are the same experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from .backbone import BackboneOptions
from .data.sources import DataOptions
from .flags import Options
from .methods import MethodOptions
from .protocols import ProtocolOptions
from .recipe import TrainingOptions
from .schema import in_current_words


DECIDING = (BackboneOptions, MethodOptions, DataOptions, ProtocolOptions, TrainingOptions)
# How the work is cut up does not change what a run finds.
NOT_DECIDING = ("per_device_eval_batch_size", "dataloader_num_workers", "class_batch_size")
PATHS = ("model_name_or_path", "train_dir", "test_dir", "coop_root")


def what_was_asked(*groups: Options) -> dict[str, Any]:
    """The options that decide a result, by flag; of other options none."""
    names = [option.name for kind in DECIDING for option in fields(kind) if option.name not in NOT_DECIDING]
    given = {name: value for group in groups for name, value in asdict(group).items()}
    return {name: given[name] for name in names if name in given}


def as_identity(asked: Mapping[str, Any]) -> dict[str, Any]:
    """
    What was asked, in the one form in which runs are compared.

    A file of an earlier version lacks flags that came later: what they ask for now was the only way then, and is their
    default.
    """
    identity = in_current_words({**what_was_asked(*(kind() for kind in DECIDING)), **asked})
    if identity["method_kwargs"] is not None:
        identity["method_kwargs"] = json.loads(identity["method_kwargs"])
    return identity


def differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """In what two runs differ, in words; empty if they are the same experiment."""
    there, asked = as_identity(there), as_identity(asked)
    return "; ".join(
        f"{name}: {there.get(name)!r} there, {asked.get(name)!r} asked"
        for name in {**asked, **there}
        if there.get(name) != asked.get(name)
    )


def to_share(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked, of folders only their names: a result may be uploaded."""
    return {
        name: Path(value).name if name in PATHS and value and Path(value).is_absolute() else value
        for name, value in asked.items()
    }
