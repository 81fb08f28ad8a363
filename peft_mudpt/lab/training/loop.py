"""The training loop: cross-entropy of pictures against all classes, by the published recipe or AdamW."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..arguments import Arguments
from ..data.loading import PixelCollator, TrainingPictures
from ..data.sources import FewShotData
from ..methods import check_method
from .checkpoints import keep_only_what_is_learned, save_checkpoint, trainable_tensors


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BaseImageProcessor

WARMUP_LEARNING_RATE = 1e-5  # constant, as in CoOp's and its followers' configurations
WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.01}
LOGGING_STEPS = 10


@dataclass(frozen=True)
class Recipe:
    """What decides a run of training, besides the model and its pictures."""

    optimizer: str
    learning_rate: float
    weight_decay: float
    steps: int
    augment: bool


@dataclass
class Progress:
    """How far training is. Kept in checkpoints."""

    step: int = 0
    loss: Optional[float] = None  # mean of the steps since the last time it was looked at
    seconds: float = 0.0  # of training, before and after interruptions

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def choose_recipe(arguments: Arguments, data: FewShotData, pictures: int, processes: int) -> Optional[Recipe]:
    """
    The recipe of a run: the arguments', and where they say nothing the method's. None for a method that is not
    trained.

    Args:
        arguments: of the run.
        data: what they are drawn from.
        pictures: how many there are to train on.
        processes: how many share a step.
    """
    method = check_method(arguments.method)
    if method.optimizer is None:
        return None
    optimizer = arguments.optimizer or method.optimizer
    steps = arguments.max_train_steps
    if steps is None:
        steps_per_epoch = math.ceil(pictures / pictures_per_step(arguments, processes))
        steps = max(arguments.min_train_steps, arguments.num_train_epochs * steps_per_epoch)
    return Recipe(
        optimizer,
        method.learning_rate if arguments.learning_rate is None else arguments.learning_rate,
        WEIGHT_DECAY[optimizer] if arguments.weight_decay is None else arguments.weight_decay,
        steps,
        arguments.augmentation == "crop" or (arguments.augmentation == "auto" and data.may_be_cropped),
    )


def pictures_per_step(arguments: Arguments, processes: int) -> int:
    """The global batch: of all processes and all accumulated forwards."""
    return arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * processes


def train(
    accelerator: Accelerator,
    classifier: torch.nn.Module,
    pictures: Dataset,
    image_processor: BaseImageProcessor,
    recipe: Recipe,
    arguments: Arguments,
    folder: Path,
    checkpoint: Optional[Path],
) -> Progress:
    """
    Train what requires a gradient, in place.

    Args:
        accelerator: not yet used for another model.
        classifier: images `pixel_values` (B, 3, H, W) -> `logits` (B, C).
        pictures: what to train on (see `FewShotData`).
        image_processor: the CLIP's own.
        recipe: how to train.
        arguments: batch sizes, seed, checkpoints.
        folder: of the run.
        checkpoint: where to go on from; None starts at the beginning.

    Returns:
        The progress at the end.

    Raises:
        FloatingPointError: if the loss is no longer a number. The last checkpoint is from before.
    """
    crop_size = classifier.family.image_shape(classifier.config)[-1] if recipe.augment else None
    length = recipe.steps * pictures_per_step(arguments, accelerator.num_processes)
    loader = DataLoader(
        TrainingPictures(pictures, length, arguments.seed, crop_size),
        arguments.per_device_train_batch_size,
        collate_fn=PixelCollator(image_processor, ready=recipe.augment),
        num_workers=arguments.dataloader_num_workers,
    )
    optimizer = build_optimizer(classifier, recipe)
    schedule = build_schedule(optimizer, recipe, round(arguments.warmup_ratio * recipe.steps))
    progress = Progress()
    classifier.train()
    keep_only_what_is_learned(accelerator)
    prepared, optimizer, loader = accelerator.prepare(classifier, optimizer, loader)
    accelerator.register_for_checkpointing(schedule, progress)
    if checkpoint is not None:
        accelerator.load_state(str(checkpoint))
        loader = accelerator.skip_first_batches(loader, progress.step * arguments.gradient_accumulation_steps)

    started = time.perf_counter() - progress.seconds
    losses = torch.zeros(2, device=accelerator.device)  # their sum and their number since they were looked at
    quiet = not accelerator.is_local_main_process
    with tqdm(total=recipe.steps, initial=progress.step, desc="training", disable=quiet) as bar:
        for batch in loader:
            with accelerator.accumulate(prepared):
                logits = prepared(pixel_values=batch["pixel_values"]).logits  # (B, C)
                loss = cross_entropy(logits, batch["labels"])
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses += torch.stack([loss.detach().float(), torch.ones_like(loss)])
            if not accelerator.sync_gradients:
                continue
            schedule.step()
            progress.step += 1
            bar.update()
            due = arguments.checkpointing_steps and progress.step % arguments.checkpointing_steps == 0
            if due or progress.step % LOGGING_STEPS == 0 or progress.step == recipe.steps:
                total, number = accelerator.reduce(losses, "sum").tolist()
                progress.loss = total / number
                losses.zero_()
                progress.seconds = time.perf_counter() - started
                _refuse_no_number(progress, recipe, arguments)
                bar.set_postfix(loss=f"{progress.loss:.3f}")
                rate = schedule.get_last_lr()[0]
                accelerator.log({"loss": progress.loss, "learning_rate": rate}, step=progress.step)
            if due:
                save_checkpoint(accelerator, folder, progress.step, checkpoint_identity(arguments, accelerator))
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)  # autocast was for training
    return progress


def checkpoint_identity(arguments: Arguments, accelerator: Accelerator) -> dict[str, Any]:
    """Which run a checkpoint is of: it must go on with as many processes, which share out its batches."""
    return {**arguments.identity(), "processes": accelerator.num_processes}


def build_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or AdamW, over what requires a gradient."""
    parameters = list(trainable_tensors(model).values())
    options = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    return torch.optim.SGD(parameters, momentum=0.9, **options)


def build_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, warmup: int) -> LambdaLR:
    """Constant at `WARMUP_LEARNING_RATE`, then from the peak along a cosine to zero."""

    def factor(step: int) -> float:
        if step < warmup:
            return min(1.0, WARMUP_LEARNING_RATE / recipe.learning_rate)
        return (1 + math.cos(math.pi * (step - warmup) / (recipe.steps - warmup))) / 2

    return LambdaLR(optimizer, factor)


def _refuse_no_number(progress: Progress, recipe: Recipe, arguments: Arguments) -> None:
    if not math.isfinite(progress.loss):
        precision = f", or train without --mixed_precision {arguments.mixed_precision}"
        raise FloatingPointError(
            f"The loss became {progress.loss} by step {progress.step}. "
            f"Lower --learning_rate, now {recipe.learning_rate:g}{precision if arguments.mixed_precision else ''}."
        )
