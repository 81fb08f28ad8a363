"""The ladder of MuDPT: from independent prompts to both directions of the fusion, to measure what the fusion adds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import MuDPTConfig
from .flags import flag_name
from .jobs import JobOptions
from .methods import find_method
from .report.rows import row_name
from .schema import read_results
from .sweep import Sweep
from .sweep_runs import run_sweeps


NO_FUSION = "no-fusion"
# The fields of the config on each rung. In the terms of the paper (arXiv 2306.11400), F maps text prompts to vision
# prompts, and H maps vision prompts to text prompts.
RUNGS: dict[str, dict[str, str]] = {
    NO_FUSION: {"fusion_direction": "none"},
    **{
        f"{kind}-{direction}": {"fusion_type": kind, "fusion_direction": direction}
        for kind in ("linear", "transformer")
        for direction in ("vision_to_text", "text_to_vision", "bidirectional")  # without F, without H, with both
    },
}


def run_ladder(sweep: Sweep, script: Path, jobs: JobOptions) -> bool:
    """
    Run every rung for each method of a sweep, on the same pictures and with the same choice of learning rates.

    Args:
        sweep: the methods, each with prompts in both towers, and everything that the rungs share.
        script: the script that runs an experiment.
        jobs: how the runs are divided.

    Returns:
        As `sweep_runs.run_sweep`.

    Raises:
        ValueError: as in `rungs` and in `run_sweep`.
        RuntimeError: as in `run_sweep`.
    """
    return run_sweeps(rungs(sweep), script, jobs)


def rungs(sweep: Sweep) -> list[Sweep]:
    """
    Plan a sweep for each method and rung.

    Args:
        sweep: as in `run_ladder`.

    Returns:
        The sweeps. The folder of each is that of `sweep`, followed by the names of the method and the rung.

    Raises:
        ValueError: if `sweep.flags` set --method_kwargs, or if the fusion of a method cannot be varied.
    """
    if "method_kwargs" in map(flag_name, sweep.flags):
        raise ValueError("A ladder decides --method_kwargs for each rung; leave it out.")
    plans = []
    for method in sweep.methods:
        for name in RUNGS:
            changed = _changed_fields(method, name)
            flags = ["--method_kwargs", json.dumps(changed)] if changed else []
            folder = sweep.output_dir / method / name
            plans.append(replace(sweep, methods=[method], output_dir=folder, flags=[*sweep.flags, *flags]))
    return plans


def rows_without_fusion(sweep: Sweep) -> list[str]:
    """
    Name the table row of each method's lowest rung, the reference of the others.

    Args:
        sweep: as in `run_ladder`, which has run it.

    Returns:
        The names of the rows (see `report.rows.row_name`).
    """
    return [row_name(read_results(sweep.output_dir / method / NO_FUSION)[0]) for method in sweep.methods]


def _changed_fields(method: str, rung: str) -> dict[str, Any]:
    """The fields of a rung that differ from those of the method itself."""
    record = find_method(method)
    if record.adapter is not MuDPTConfig:
        raise ValueError(f"A ladder varies the fusion of prompts, but method {method} is no preset of MuDPTConfig.")
    try:
        own, changed = MuDPTConfig(**record.fields), MuDPTConfig(**{**record.fields, **RUNGS[rung]})
    except ValueError as error:
        raise ValueError(
            f"A ladder varies the fusion of prompts, which method {method} does not allow: {error}"
        ) from error
    return {name: value for name, value in RUNGS[rung].items() if getattr(own, name) != getattr(changed, name)}
