"""The training loop: an objective, minimized over a fixed sequence of pictures by SGD or AdamW."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Optional

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data.loading import PixelCollator, TrainingPictures
from ..recipe import Recipe
from .checkpoints import Checkpoints, only_what_is_learned, trainable_tensors
from .objectives import OBJECTIVES


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BaseImageProcessor

WARMUP_LEARNING_RATE = 1e-5  # constant, as in CoOp's and its followers' configurations
LOGGING_STEPS = 10


@dataclass
class Progress:
    """How far training is. Kept in checkpoints."""

    step: int = 0
    loss: Optional[float] = None  # mean of the steps since the last report
    seconds: float = 0.0  # of training, before and after interruptions

    def state_dict(self) -> dict:
        """Its fields by name, as `accelerate` saves them."""
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        """Set the fields that `state_dict` has returned."""
        for name, value in state.items():
            setattr(self, name, value)


def train(
    accelerator: Accelerator,
    classifier: torch.nn.Module,
    pictures: Dataset,
    image_processor: BaseImageProcessor,
    recipe: Recipe,
    checkpoints: Optional[Checkpoints] = None,
) -> Progress:
    """
    Train what requires a gradient, in place.

    Args:
        accelerator: not yet used for another model.
        classifier: images `pixel_values` (B, 3, H, W) -> what the recipe's objective needs (see `Objective.loss`).
        pictures: what to train on (see `FewShotData`).
        image_processor: the CLIP's own.
        recipe: how to train.
        checkpoints: where and how often they are written, and which to go on from; None for none.

    Returns:
        The progress at the end.

    Raises:
        FloatingPointError: if the loss is no longer a number. The last checkpoint is from before.
    """
    objective = OBJECTIVES[recipe.objective]()
    loader = training_loader(accelerator, classifier, pictures, image_processor, recipe)
    optimizer = build_optimizer(classifier, recipe)
    schedule = build_schedule(optimizer, recipe)
    progress = Progress()
    classifier.train()
    with only_what_is_learned(accelerator):
        prepared, optimizer, loader = accelerator.prepare(classifier, optimizer, loader)
        accelerator.register_for_checkpointing(schedule, progress)
        if checkpoints is not None and checkpoints.resume_from is not None:
            accelerator.load_state(str(checkpoints.resume_from))
            loader = accelerator.skip_first_batches(loader, progress.step * recipe.gradient_accumulation_steps)

        started = time.perf_counter() - progress.seconds
        losses = torch.zeros(2, device=accelerator.device)  # sum and number of the losses since the last report
        quiet = not accelerator.is_local_main_process
        with tqdm(total=recipe.steps, initial=progress.step, desc="training", disable=quiet) as bar:
            for batch in loader:
                with accelerator.accumulate(prepared):
                    loss = objective.loss(prepared, batch)
                    accelerator.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                losses += torch.stack([loss.detach().float(), torch.ones_like(loss)])
                if not accelerator.sync_gradients:
                    continue
                schedule.step()
                progress.step += 1
                objective.after_step(accelerator.unwrap_model(prepared), progress.step, recipe.steps)
                bar.update()
                due = checkpoints is not None and checkpoints.is_due(progress.step)
                if due or progress.step % LOGGING_STEPS == 0 or progress.step == recipe.steps:
                    total, number = accelerator.reduce(losses, "sum").tolist()
                    progress.loss = total / number
                    losses.zero_()
                    progress.seconds = time.perf_counter() - started
                    _refuse_no_number(progress, recipe, accelerator.mixed_precision)
                    bar.set_postfix(loss=f"{progress.loss:.3f}")
                    rate = schedule.get_last_lr()[0]
                    accelerator.log({"loss": progress.loss, "learning_rate": rate}, step=progress.step)
                if due:
                    checkpoints.save(accelerator, progress.step)
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)  # autocast was for training
    accelerator.free_memory()  # it would keep the model for as long as it lives
    return progress


def training_loader(
    accelerator: Accelerator,
    classifier: torch.nn.Module,
    pictures: Dataset,
    image_processor: BaseImageProcessor,
    recipe: Recipe,
) -> DataLoader:
    """
    The batches of a whole run: `pixel_values` (B, 3, H, W) and `labels` (B,).

    Args:
        accelerator: its processes share out the batches.
        classifier, pictures, image_processor, recipe: as for `train`.
    """
    crop_size = classifier.family.image_shape(classifier.config)[-1] if recipe.crop else None
    pictures_per_step = recipe.batch_size * recipe.gradient_accumulation_steps * accelerator.num_processes
    return DataLoader(
        TrainingPictures(pictures, recipe.steps * pictures_per_step, recipe.seed, crop_size),
        recipe.batch_size,
        collate_fn=PixelCollator(image_processor, ready=recipe.crop),
        num_workers=recipe.num_workers,
    )


def build_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or AdamW, over what requires a gradient."""
    parameters = list(trainable_tensors(model).values())
    options = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    return torch.optim.SGD(parameters, momentum=0.9, **options)


def build_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> LambdaLR:
    """Constant at `WARMUP_LEARNING_RATE` for `recipe.warmup_steps`, then from the peak along a cosine to zero."""

    def factor(step: int) -> float:
        if step < recipe.warmup_steps:
            return min(1.0, WARMUP_LEARNING_RATE / recipe.learning_rate)
        turn = math.pi * (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
        return (1 + math.cos(turn)) / 2

    return LambdaLR(optimizer, factor)


def _refuse_no_number(progress: Progress, recipe: Recipe, mixed_precision: str) -> None:
    if not math.isfinite(progress.loss):
        precision = "" if mixed_precision == "no" else f", or train without --mixed_precision {mixed_precision}"
        raise FloatingPointError(
            f"The loss became {progress.loss} by step {progress.step}. "
            f"Lower --learning_rate, now {recipe.learning_rate:g}{precision}."
        )
