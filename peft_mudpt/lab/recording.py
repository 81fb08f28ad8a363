"""The last stage of an experiment: `record` saves the learned weights, the model card and the result."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Optional

from .environment import hardware, versions
from .identity import to_share
from .plan import Outcome
from .report.card import model_card
from .run_folder import CARD, hold
from .schema import write_result
from .storage import write_text


def record(
    outcome: Outcome, folder: str | os.PathLike, hub_model_id: Optional[str] = None, held: bool = False
) -> dict[str, Any]:
    """
    Save the learned weights, the model card of an adapter and, last, `result.json`. Only the main process writes.

    Args:
        outcome: what `execute` returned.
        folder: the folder to write to: a new one, or one that already belongs to this run but holds no result.
        hub_model_id: the id on the Hub from which the card loads the adapter; None: the card loads it from a path.
        held: True if the caller holds the folder for this run (see `run_folder.hold`).

    Returns:
        The result, with the fields of `schema.FIELDS` except `schema_version`. On a process other than the main one,
        it also lacks `adapter_bytes` and `seconds`.

    Raises:
        ValueError: if the folder holds the result of this or another run, or if another process is using it.
        RuntimeError: if the weights, loaded again from the folder, give other logits than the trained model.
    """
    plan, folder = outcome.plan, Path(folder)
    task, recipe = plan.task, plan.recipe
    result = {
        "arguments": to_share(plan.experiment.asked),
        "dataset": plan.data.name,
        "method": plan.method.name,
        "class_names": task.class_names,
        "items": {"train": task.train["item"][:], "validation": task.validation["item"][:]},
        "metrics": outcome.metrics,
        "zero_shot": plan.zero_shot,
        "summary": outcome.summary,
        "robustness": outcome.robustness,
        "optimizer": recipe and recipe.optimizer,
        "learning_rate": recipe and recipe.learning_rate,
        "steps": outcome.progress.step,
        "loss": outcome.progress.loss,
        "validation": outcome.progress.as_validation(),
        "trainable_parameters": plan.trainable_parameters,
        "versions": versions(),
        "hardware": hardware(plan.accelerator),
        "peak_memory_bytes": outcome.peak_memory_bytes,
        **plan.described(),
    }
    if not plan.accelerator.is_main_process:
        return result
    with nullcontext() if held else hold(folder, plan.identity):
        result["adapter_bytes"] = plan.save(folder)
        if plan.method.is_trained:
            plan.check_it_reloads(folder)
        result["seconds"] = {"training": outcome.progress.seconds, "total": time.perf_counter() - plan.started}
        if plan.method.leaves_adapter:
            write_text(folder / CARD, str(model_card(result, plan.backbone.source.name_or_path, hub_model_id)))
        write_result(folder, result)
    return result
