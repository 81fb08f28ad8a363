"""How a run is trained: what was asked for, and where nothing was asked the method's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Optional

from .flags import Count, OptionalCount, Options, at_least, flag, more_than, share
from .methods import Method


WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.01}


@dataclass(frozen=True)
class TrainingOptions(Options):
    """What can be asked of training and testing."""

    optimizer: Optional[str] = flag(None, "None: the method's own.", choices=("sgd", "adamw"))
    learning_rate: Annotated[Optional[float], more_than(0)] = flag(
        None, "Peak, annealed by a cosine. None: the method's own."
    )
    weight_decay: Annotated[Optional[float], at_least(0)] = flag(None, "None: 5e-4 with sgd, 0.01 with adamw.")
    warmup_ratio: Annotated[float, share(0, 1)] = flag(
        0.05, "Share of the steps at a constant learning rate of 1e-5, before the peak."
    )
    per_device_train_batch_size: Count = flag(8, "Pictures per device and forward.")
    gradient_accumulation_steps: Count = flag(1, "Forwards per step.")
    num_train_epochs: Count = flag(5, "How often each training picture is seen, at least.")
    min_train_steps: Count = flag(1200, "Few pictures are seen more often: in so many steps.")
    max_train_steps: OptionalCount = flag(None, "Train for exactly so many steps. None: as the two before say.")
    class_batch_size: OptionalCount = flag(
        None, "Classes encoded at a time; bounds the memory. None: by the size of the model."
    )
    augmentation: str = flag(
        "auto",
        "crop: random resized crops, flipped or not, as CoOp does. auto: crop, but not in the embedded world, where "
        "a part of a shape does not tell which it is.",
        choices=("auto", "crop", "none"),
    )
    mixed_precision: Optional[str] = flag(None, "As in accelerate.", choices=("no", "fp16", "bf16"))
    per_device_eval_batch_size: Count = flag(100, "Pictures per device when testing.")
    dataloader_num_workers: Annotated[int, at_least(0)] = flag(0, "Processes that read pictures.")


@dataclass(frozen=True)
class Recipe:
    """
    All that decides a run of training, besides the model and its pictures.

    Args:
        objective: what is minimized, one of `training.objectives.OBJECTIVES`.
        optimizer: "sgd" or "adamw".
        learning_rate: its peak.
        weight_decay: of the optimizer.
        steps: optimizer steps.
        warmup_steps: the first of them, at a small constant learning rate.
        batch_size: pictures per device and forward.
        gradient_accumulation_steps: forwards per step.
        crop: whether pictures are augmented by random resized crops.
        seed: decides the order of the pictures and their augmentation.
        num_workers: processes that read pictures.
    """

    objective: str
    optimizer: str
    learning_rate: float
    weight_decay: float
    steps: int
    warmup_steps: int
    batch_size: int
    gradient_accumulation_steps: int
    crop: bool
    seed: int
    num_workers: int = 0


def choose_recipe(
    options: TrainingOptions, method: Method, pictures: int, processes: int, may_be_cropped: bool, seed: int
) -> Optional[Recipe]:
    """
    The recipe of a run; None for a method that is not trained.

    Args:
        options: what was asked for.
        method: what decides where nothing was asked for.
        pictures: how many there are to train on.
        processes: how many share a step.
        may_be_cropped: whether a part of a picture still shows its class.
        seed: of the batches.
    """
    if not method.is_trained:
        return None
    optimizer = options.optimizer or method.optimizer
    steps = options.max_train_steps
    if steps is None:
        pictures_per_step = (
            options.per_device_train_batch_size * options.gradient_accumulation_steps * processes
        )  # of all processes and all accumulated forwards
        steps_per_epoch = math.ceil(pictures / pictures_per_step)
        steps = max(options.min_train_steps, options.num_train_epochs * steps_per_epoch)
    return Recipe(
        method.objective,
        optimizer,
        method.learning_rate if options.learning_rate is None else options.learning_rate,
        WEIGHT_DECAY[optimizer] if options.weight_decay is None else options.weight_decay,
        steps,
        round(options.warmup_ratio * steps),
        options.per_device_train_batch_size,
        options.gradient_accumulation_steps,
        options.augmentation == "crop" or (options.augmentation == "auto" and may_be_cropped),
        seed,
        options.dataloader_num_workers,
    )
