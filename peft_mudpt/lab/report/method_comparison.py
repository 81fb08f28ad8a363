"""Writes results in the layout of PEFT's `method_comparison`, to compare them with those of its methods."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

from ..data.files import listed
from ..run_folder import ADAPTER_CONFIG
from ..schema import FOLDER, RESULT
from ..storage import read_json, write_json
from .sections import Result


PROTOCOL = "base-to-new"
PLACES = ("_dir", "_root")  # ends of options that name folders, which say nothing to others
# In PEFT's files these keys have values that this package does not measure. They are kept, because PEFT's reader asks
# for them.
NOT_MEASURED = ("accelerator_memory_reserved_avg", "accelerator_memory_reserved_99th", "num_total_params")


def write_method_comparison(results: Sequence[Result], folder: Path) -> list[Path]:
    """
    Write a file for each adapter that was tested on base and new classes. Earlier files of the same experiments are
    replaced.

    Args:
        results: as from `read_results`.
        folder: the folder to write to; it is created if needed.

    Returns:
        The files. Each is named after its experiment, with "--" for "/".

    Raises:
        ValueError: if no result can be written, or if a file of the same name belongs to something else. Nothing is
            written then.
    """
    experiments = _experiments(results)
    if not experiments:
        raise ValueError(
            f"--method_comparison needs adapters that were tested with --protocol {PROTOCOL}; the results hold none."
        )
    files = {folder / f"{name.replace('/', '--')}.json": name for name in experiments}
    foreign = [str(file) for file, name in files.items() if file.exists() and not _is_of(file, name)]
    if foreign:
        raise ValueError(f"{listed(foreign)} would be replaced. Give another folder for --method_comparison.")
    for file, name in files.items():
        write_json(file, method_comparison(experiments[name], name))
    return list(files)


def method_comparison(result: Result, name: str) -> dict[str, Any]:
    """
    Convert a result of the protocol base-to-new to the layout of PEFT's `method_comparison`.

    "test accuracy" is the accuracy on the base classes, and "forgetting" what the new classes, which the adapter was
    not trained on, lose against the CLIP without it. Both are fractions. What this package does not measure is null.

    Args:
        result: as from `read_results`; its folder holds the config of the adapter.
        name: name of the experiment, `method/variant`.

    Returns:
        The content of the file.
    """
    asked, hardware, folder = result["arguments"], result["hardware"], Path(result[FOLDER])
    written = datetime.fromtimestamp((folder / RESULT).stat().st_mtime, timezone.utc)
    on_accelerator = hardware.get("device") != "cpu"
    versions = {**dict.fromkeys(("datasets", "bitsandbytes")), **result["versions"]}
    return {
        "run_info": {
            "created_at": written.isoformat(timespec="seconds"),
            "total_time": result["seconds"]["total"],
            "experiment_name": name,
            "peft_branch": None,
            "train_config": {
                **{option: value for option, value in asked.items() if not option.endswith(PLACES)},
                "model_id": asked["model_name_or_path"],
                "dataset_id": result["dataset"],
                "max_steps": result["steps"],
                "optimizer_type": result["optimizer"],
                "optimizer_kwargs": {"lr": result["learning_rate"]},
            },
            "peft_config": read_json(folder / ADAPTER_CONFIG),
            "error_msg": "",
        },
        "train_info": {
            **dict.fromkeys(NOT_MEASURED),
            "accelerator_memory_max": result["peak_memory_bytes"] if on_accelerator else None,
            "train_time": result["seconds"]["training"],
            "file_size": result["adapter_bytes"],
            "num_trainable_params": result["trainable_parameters"],
            "status": "success",
            "metrics": [_metrics(result)],
        },
        "meta_info": {
            "model_info": {"sha": asked.get("model_revision"), "created_at": None},
            "dataset_info": {"sha": None, "created_at": None},
            "package_info": {f"{package}-version": version for package, version in versions.items()},
            "system_info": {"accelerator": hardware.get("device") if on_accelerator else None},
            "pytorch_info": None,
        },
    }


def _metrics(result: Result) -> dict[str, Any]:
    new, before = (_accuracy(result[stage], "new") for stage in ("metrics", "zero_shot"))
    return {
        "step": result["steps"],
        "test accuracy": _accuracy(result["metrics"], "base"),
        "forgetting": None if new is None or before is None else before - new,
        "train loss": result["loss"],
        "train samples": None,
        "train total tokens": None,
    }


def _accuracy(metrics: dict[str, Any], classes: str) -> Optional[float]:
    """As a fraction; None if the method cannot name these classes."""
    return metrics[classes]["accuracy"] / 100 if metrics.get(classes) else None


def _experiments(results: Sequence[Result]) -> dict[str, Result]:
    """The results that can be written, by the names of their experiments."""
    experiments: dict[str, Result] = {}
    taken: Counter[str] = Counter()
    for result in results:
        asked = result["arguments"]
        if asked["protocol"] != PROTOCOL or asked["evaluate_on"] != "test":
            continue
        if not (Path(result[FOLDER]) / ADAPTER_CONFIG).exists():
            continue
        variant = f"{asked['model_name_or_path']}-{result['dataset']}-shots{asked['shots']}-seed{asked['seed']}"
        name = f"{result['method']}/" + re.sub(r"[^\w.-]+", "-", variant)
        taken[name] += 1
        experiments[name if taken[name] == 1 else f"{name}-{taken[name]}"] = result
    return experiments


def _is_of(file: Path, name: str) -> bool:
    try:
        return read_json(file)["run_info"]["experiment_name"] == name
    except (ValueError, KeyError, TypeError):
        return False
