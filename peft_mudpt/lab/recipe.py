"""How a run is trained: the options that the user gives, and the method's defaults for the options left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Optional

from .flags import Count, OptionalCount, Options, at_least, flag, more_than, share
from .methods import Method


WARMUPS = ("constant", "linear")
WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.01}


@dataclass(frozen=True)
class TrainingOptions(Options):
    """Options of training and testing. `--help` describes each."""

    optimizer: Optional[str] = flag(None, "Optimizer. None: the method's default.", choices=("sgd", "adamw"))
    learning_rate: Annotated[Optional[float], more_than(0)] = flag(
        None, "Peak learning rate; a cosine decays it to zero. None: the method's default."
    )
    weight_decay: Annotated[Optional[float], at_least(0)] = flag(None, "None: 5e-4 for sgd, 0.01 for adamw.")
    warmup: str = flag(
        "constant",
        "Learning rate before the peak. constant: 1e-5, as in CoOp and the methods that follow it. linear: rises from "
        "1e-5 to the peak.",
        choices=WARMUPS,
    )
    warmup_ratio: Annotated[float, share(0, 1)] = flag(
        0.05, "Share of the optimizer steps before the peak learning rate. 0: no warmup."
    )
    per_device_train_batch_size: Count = flag(8, "Pictures per device and forward pass in training.")
    gradient_accumulation_steps: Count = flag(1, "Forward passes per optimizer step.")
    num_train_epochs: Count = flag(5, "Least number of times that each training picture is seen.")
    min_train_steps: Count = flag(
        1200, "Least number of optimizer steps; if the pictures are few, they are seen more often."
    )
    max_train_steps: OptionalCount = flag(
        None, "Exact number of optimizer steps. None: --num_train_epochs and --min_train_steps decide."
    )
    class_batch_size: OptionalCount = flag(
        None, "Classes encoded at a time; a smaller number needs less memory. None: the size of the model decides."
    )
    augmentation: str = flag(
        "auto",
        "crop: random resized crops with random flips, as in CoOp. auto: crop, except in the embedded world, where a "
        "part of a shape does not show its class.",
        choices=("auto", "crop", "none"),
    )
    mixed_precision: Optional[str] = flag(
        None, "Training precision, as in accelerate.", choices=("no", "fp16", "bf16")
    )
    per_device_eval_batch_size: Count = flag(100, "Pictures per device and forward pass in testing.")
    dataloader_num_workers: Annotated[int, at_least(0)] = flag(0, "Processes that load pictures.")


@dataclass(frozen=True)
class Recipe:
    """
    Everything that determines training, besides the model and the pictures.

    Args:
        objective: the loss, one of `training.objectives.OBJECTIVES`.
        optimizer: "sgd" or "adamw".
        learning_rate: peak learning rate.
        weight_decay: weight decay of the optimizer.
        steps: number of optimizer steps.
        warmup_steps: number of steps before the peak learning rate.
        batch_size: training pictures per device and forward pass.
        gradient_accumulation_steps: forward passes per optimizer step.
        crop: True if training pictures are augmented by random resized crops.
        seed: seed of the order and the augmentation of the pictures.
        num_workers: processes that load pictures.
        warmup: the learning rate of the warmup steps, one of `WARMUPS`.
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
    warmup: str = "constant"


def choose_recipe(
    options: TrainingOptions, method: Method, pictures: int, processes: int, may_be_cropped: bool, seed: int
) -> Optional[Recipe]:
    """
    Choose how a run is trained.

    Args:
        options: the user's options; they take precedence.
        method: its defaults are used for options that are None.
        pictures: number of training pictures.
        processes: number of processes that share each optimizer step.
        may_be_cropped: True if a part of a picture still shows its class.
        seed: seed of the order and the augmentation of the pictures.

    Returns:
        The recipe; None for a method that is not trained.
    """
    if not method.is_trained:
        return None
    optimizer = options.optimizer or method.optimizer
    steps = options.max_train_steps
    if steps is None:
        pictures_per_step = (
            options.per_device_train_batch_size * options.gradient_accumulation_steps * processes
        )  # over all processes and accumulated forward passes
        steps_per_epoch = math.ceil(pictures / pictures_per_step)
        steps = max(options.min_train_steps, options.num_train_epochs * steps_per_epoch)
    return Recipe(
        method.objective,
        optimizer,
        method.learning_rate if options.learning_rate is None else options.learning_rate,
        WEIGHT_DECAY[optimizer] if options.weight_decay is None else options.weight_decay,
        steps,
        min(round(options.warmup_ratio * steps), steps - 1),  # at least the last step uses the peak
        options.per_device_train_batch_size,
        options.gradient_accumulation_steps,
        options.augmentation == "crop" or (options.augmentation == "auto" and may_be_cropped),
        seed,
        options.dataloader_num_workers,
        options.warmup,
    )
