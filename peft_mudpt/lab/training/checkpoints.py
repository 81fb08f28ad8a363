"""What a run needs to go on after a kill: what it has learned, its optimizer and its place, and nothing of CLIP."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Optional

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from ..arguments import LATEST
from ..run_folder import CHECKPOINTS, RUN, differences
from ..schema import write_json


WEIGHTS = "trainable.safetensors"
PARTIAL = ".partial"


def trainable_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What is learned, by parameter name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def keep_only_what_is_learned(accelerator: Accelerator) -> None:
    """Make `save_state` and `load_state` write and read the trainable parameters instead of the whole model."""

    def save(models: list, weights: list, folder: str) -> None:
        if accelerator.is_main_process:
            tensors = trainable_tensors(accelerator.unwrap_model(models[0]))
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, Path(folder) / WEIGHTS)
        weights.clear()

    def load(models: list, folder: str) -> None:
        saved = load_file(Path(folder) / WEIGHTS)
        with torch.no_grad():
            for name, tensor in trainable_tensors(accelerator.unwrap_model(models[0])).items():
                tensor.copy_(saved[name])
        models.clear()

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def save_checkpoint(accelerator: Accelerator, run_folder: Path, step: int, identity: dict[str, Any]) -> None:
    """
    Write the state after `step` steps whole, then drop the one before: a kill at any moment leaves one of them.

    Args:
        accelerator: whose state it is.
        run_folder: of the run.
        step: steps done.
        identity: which run it is.
    """
    folder = run_folder / CHECKPOINTS
    final = folder / f"step_{step:08d}"
    partial = final.with_name(final.name + PARTIAL)
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(partial / RUN, identity)
        if final.exists():  # of a run that went this far before and was started over
            os.replace(final, folder / f"old{PARTIAL}")
        os.replace(partial, final)
        for other in folder.iterdir():
            if other != final:
                shutil.rmtree(other)


def find_checkpoint(run_folder: Path, asked: Optional[str], identity: dict[str, Any]) -> Optional[Path]:
    """
    The checkpoint folder to go on from; None to start at the beginning.

    Args:
        run_folder: of the run.
        asked: a checkpoint folder, or "latest": the last of the run, if it has any; or None.
        identity: which run it must be of.

    Raises:
        ValueError: if the folder that was asked for is no checkpoint, or one of another run.
    """
    if asked is None:
        return None
    if asked == LATEST:
        found = sorted(p for p in (run_folder / CHECKPOINTS).glob("step_*") if not p.name.endswith(PARTIAL))
        if not found:
            return None
        checkpoint = found[-1]
    else:
        checkpoint = Path(asked)
    if not (checkpoint / RUN).is_file():
        raise ValueError(f"--resume_from_checkpoint {asked} is no checkpoint: it holds no {RUN}.")
    other = json.loads((checkpoint / RUN).read_text(encoding="utf-8"))
    if other != identity:
        raise ValueError(f"{checkpoint} is a checkpoint of another run ({differences(other, identity)}).")
    return checkpoint


def drop_checkpoints(run_folder: Path) -> None:
    """Remove what a finished run no longer needs."""
    shutil.rmtree(run_folder / CHECKPOINTS, ignore_errors=True)
