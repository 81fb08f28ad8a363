"""Checkpoints to resume a run from: the learned parameters, the optimizer and the progress, without CLIP's weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from accelerate import Accelerator
from accelerate.utils import RNG_STATE_NAME
from accelerate.utils import load as read_state
from safetensors.torch import load_file, save_file

from ..differences import differences
from ..identity import as_identity
from ..run_folder import CHECKPOINTS, RUN, discard, own_checkpoints, read_identity, sweep_leftovers
from ..storage import PARTIAL, naming, write_json


WEIGHTS = "trainable.safetensors"
LATEST = "latest"  # the last checkpoint of a run


def trainable_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """
    Collect the parameters that are trained.

    Args:
        model: any module.

    Returns:
        The parameters that require a gradient, by name.
    """
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@contextmanager
def only_what_is_learned(accelerator: Accelerator) -> Iterator[None]:
    """
    Within this context, `save_state` and `load_state` handle only the trainable parameters instead of the whole model.

    Args:
        accelerator: the accelerator that saves and loads.
    """

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
    Where and how often a run is saved, and from which checkpoint it resumes.

    Args:
        folder: the folder of the run; checkpoints are written to a subfolder.
        identity: identifies the run (see `identity.what_was_asked`).
        every: optimizer steps between two checkpoints; None: no checkpoint is written.
        resume_from: the checkpoint from which the run resumes; None: the run starts at the beginning.
        limit: number of checkpoints that are kept; the oldest are deleted.
    """

    folder: Path
    identity: dict[str, Any]
    every: Optional[int] = None
    resume_from: Optional[Path] = None
    limit: int = 1

    def is_due(self, step: int) -> bool:
        """True if the state after `step` optimizer steps must be saved."""
        return self.every is not None and step % self.every == 0

    def save(self, accelerator: Accelerator, step: int) -> None:
        """
        Save the state after `step` optimizer steps, then delete the checkpoints beyond the limit.

        The new checkpoint is written under a temporary name and renamed when it is complete. If the process is killed
        while it writes, a previous checkpoint is still there. A complete checkpoint of this step is kept, because
        equal runs reach equal states.

        Args:
            accelerator: the accelerator of the training loop.
            step: number of optimizer steps done.
        """
        folder = self.folder / CHECKPOINTS
        final = folder / f"step_{step:08d}"
        partial = final.with_name(final.name + PARTIAL)
        if accelerator.is_main_process:
            sweep_leftovers(self.folder)
            write_json(partial / RUN, as_identity(self.identity))  # first, to show that a run writes this folder
        accelerator.wait_for_everyone()
        with naming(partial):
            accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            if not final.exists():
                os.replace(partial, final)
            others = [other for other in own_checkpoints(self.folder) if other != final]
            for other in others[: len(others) + 1 - self.limit]:
                discard(other)
            sweep_leftovers(self.folder)

    def restore(self, accelerator: Accelerator) -> None:
        """
        Go back to the state of the checkpoint from which the run resumes.

        Args:
            accelerator: the accelerator of the training loop.

        Raises:
            ValueError: if the checkpoint is damaged.
        """
        random_states = self.resume_from / f"{RNG_STATE_NAME}_{accelerator.process_index}.pkl"
        try:
            read_state(random_states)  # load_state only logs if it cannot read this file
            accelerator.load_state(str(self.resume_from))
        except Exception as error:  # each kind of damage raises another type
            raise ValueError(
                f"The checkpoint {self.resume_from} is damaged ({error!r}). Start at the beginning with "
                "--overwrite_output_dir."
            ) from error


def find_checkpoint(run_folder: Path, asked: Optional[str], identity: dict[str, Any]) -> Optional[Path]:
    """
    Find the checkpoint from which a run resumes.

    Args:
        run_folder: the folder of the run.
        asked: a checkpoint folder; "latest" for the last checkpoint of the run; None: do not resume.
        identity: identifies the run (see `identity.what_was_asked`); the checkpoint must belong to this run.

    Returns:
        The folder of the checkpoint. None if the run starts at the beginning, because `asked` is None or there is no
        latest checkpoint.

    Raises:
        ValueError: if the folder is not a checkpoint, or belongs to another run.
    """
    if asked is None:
        return None
    if asked == LATEST:
        found = own_checkpoints(run_folder)
        if not found:
            return None
        checkpoint = found[-1]
    else:
        checkpoint = Path(asked)
    other = read_identity(checkpoint)
    if other is None:
        raise ValueError(
            f"--resume_from_checkpoint {checkpoint} is not a checkpoint, because its {RUN} is missing or damaged. "
            f"Give a folder '{CHECKPOINTS}/step_...' of a run, or start at the beginning with --overwrite_output_dir."
        )
    if differing := differences(other, identity):
        raise ValueError(
            f"{checkpoint} is a checkpoint of another run ({differing}). Resume with the flags and the pictures of "
            "that run, or start at the beginning with --overwrite_output_dir."
        )
    return checkpoint
