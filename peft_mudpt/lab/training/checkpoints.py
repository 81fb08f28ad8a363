"""What a run needs to go on after a kill: what it has learned, its optimizer and its place, and nothing of CLIP."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from ..identity import differences
from ..run_folder import CHECKPOINTS, RUN
from ..schema import write_json


WEIGHTS = "trainable.safetensors"
PARTIAL = ".partial"
LATEST = "latest"  # the last checkpoint of a run


def trainable_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What is learned, by parameter name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@contextmanager
def only_what_is_learned(accelerator: Accelerator) -> Iterator[None]:
    """Within it, `save_state` and `load_state` write and read the trainable parameters instead of the whole model."""

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

    hooks = [accelerator.register_save_state_pre_hook(save), accelerator.register_load_state_pre_hook(load)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Checkpoints:
    """
    Where and how often a run is saved, and which checkpoint it goes on from.

    Args:
        folder: of the run; checkpoints are kept in a folder of it.
        identity: which run it is.
        every: steps between two checkpoints; None: none is written.
        resume_from: the checkpoint to go on from; None: the run starts at the beginning.
    """

    folder: Path
    identity: dict[str, Any]
    every: Optional[int] = None
    resume_from: Optional[Path] = None

    def is_due(self, step: int) -> bool:
        """Whether the state after `step` steps is to be saved."""
        return self.every is not None and step % self.every == 0

    def save(self, accelerator: Accelerator, step: int) -> None:
        """
        Write the state after `step` steps whole, then drop the one before: a kill at any moment leaves one of them.
        """
        folder = self.folder / CHECKPOINTS
        final = folder / f"step_{step:08d}"
        partial = final.with_name(final.name + PARTIAL)
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_json(partial / RUN, self.identity)
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
    if differing := differences(other, identity):
        raise ValueError(f"{checkpoint} is a checkpoint of another run ({differing}).")
    return checkpoint


def drop_checkpoints(run_folder: Path) -> None:
    """Remove what a finished run no longer needs."""
    shutil.rmtree(run_folder / CHECKPOINTS, ignore_errors=True)
