"""How a run is trained: the options that the user gave, and the method's defaults for the options left out."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Optional, cast

from ..config import PromptInitialization
from .adversarial import NOT_ADVERSARIAL, AdversarialOptions, AdversarialTraining, choose_adversarial, is_adversarial
from .method import Method
from .training.anchors import Anchors
from .training.averaging import Averaging, epochs_of
from .training_options import LoopOptions, TrainingOptions


WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.01}


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
        augment: True if training pictures are augmented at random: those of classes by crops, those of boxes by flips
            and smaller sizes.
        seed: seed of the order and the augmentation of the pictures.
        num_workers: processes that load pictures; None: see `choose_workers`.
        warmup: the learning rate of the warmup steps, one of `WARMUPS`.
        decay: how the learning rate decays after the warmup, one of `DECAYS`.
        logging_steps: optimizer steps between two reports of the loss.
        prompt_initialization: how the vision prompts start from the training pictures (see `initialize_prompts`);
            None: from random numbers.
        anchors: the anchors that are added to the loss.
        averaging: how the learned parameters are averaged over the epochs; None: they are not.
        adversarial: how the run learns from attacked pictures; None: from clean ones.
        cached_views: number of random crops of each picture, which are encoded once; None: each epoch has others.
    """

    objective: str
    optimizer: str
    learning_rate: float
    weight_decay: float
    steps: int
    warmup_steps: int
    batch_size: int
    gradient_accumulation_steps: int
    augment: bool
    seed: int
    num_workers: Optional[int] = None
    warmup: str = "constant"
    decay: str = "cosine"
    logging_steps: int = 10
    prompt_initialization: Optional[PromptInitialization] = None
    anchors: Anchors = Anchors()
    averaging: Optional[Averaging] = None
    adversarial: Optional[AdversarialTraining] = None
    cached_views: Optional[int] = None

    def pictures_per_step(self, processes: int) -> int:
        """
        Number of pictures of one optimizer step, over all processes and accumulated forward passes.

        Args:
            processes: number of processes that share each optimizer step.
        """
        return self.batch_size * self.gradient_accumulation_steps * processes


def choose_recipe(
    options: TrainingOptions,
    method: Method,
    pictures: int,
    processes: int,
    may_be_cropped: bool,
    seed: int,
    adversarial: AdversarialOptions = NOT_ADVERSARIAL,
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
        adversarial: the user's options of learning from attacked pictures.

    Returns:
        The recipe; None for a method that is not trained.

    Raises:
        ValueError: if the options for anchors or for the average contradict each other, or if options do not fit the
            method.
    """
    anchors = choose_anchors(options, method)
    crop = options.augmentation == "crop"
    if options.augmentation == "auto":
        crop = may_be_cropped and not is_adversarial(adversarial, method)
    attacked = choose_adversarial(adversarial, method, crop, seed, processes)
    if options.cached_views is not None and (not crop or attacked is not None):
        raise ValueError(
            f"--cached_views {options.cached_views} needs random crops of pictures that are not attacked; leave it "
            "out, or give --augmentation crop, without --adversarial."
        )
    if not method.has_steps:
        if options.eval_steps:
            raise ValueError(f"--eval_steps {options.eval_steps}: method {method.name} takes no steps; leave it out.")
        if options.cached_views is not None:
            raise ValueError(
                f"--cached_views {options.cached_views}: method {method.name} takes no steps; leave it out."
            )
        if options.prompt_initialization is not None:
            raise ValueError(
                f"--prompt_initialization {options.prompt_initialization}: method {method.name} has no prompts; leave "
                "it out."
            )
        for name in ("averaging_mean", "averaging_std"):
            if value := getattr(options, name):
                raise ValueError(
                    f"--{name} {value:g}: method {method.name} trains nothing that could be averaged; leave it out."
                )
        return None
    recipe = recipe_of_loop(options, method, pictures, processes, crop, seed)
    epochs = epochs_of(recipe.steps, recipe.pictures_per_step(processes), pictures)
    averaging = choose_averaging(options, method, epochs)
    if averaging is not None and options.early_stopping_patience is not None:
        raise ValueError(
            f"--early_stopping_patience {options.early_stopping_patience}: method {method.name} averages what it "
            "learns over all epochs, and so needs all of them. Leave it out, or give --averaging_mean 0."
        )
    initialization = options.prompt_initialization or method.prompt_initialization
    return replace(
        recipe,
        prompt_initialization=cast(Optional[PromptInitialization], initialization),
        anchors=anchors,
        averaging=averaging,
        adversarial=attacked,
        cached_views=options.cached_views,
    )


def recipe_of_loop(
    options: LoopOptions, method: Method, pictures: int, processes: int, augment: bool, seed: int
) -> Recipe:
    """
    Choose the part of a recipe that every task has.

    Args:
        options: the user's options; they take precedence.
        method: its defaults are used for options that are None. It must have optimizer steps.
        pictures: number of training pictures.
        processes: number of processes that share each optimizer step.
        augment: True if training pictures are augmented at random.
        seed: seed of the order and the augmentation of the pictures.

    Returns:
        The recipe.
    """
    optimizer = cast(str, options.optimizer or method.optimizer)
    steps = options.max_train_steps
    if steps is None:
        # over all processes and accumulated forward passes
        pictures_per_step = options.per_device_train_batch_size * options.gradient_accumulation_steps * processes
        steps = max(options.min_train_steps, options.num_train_epochs * math.ceil(pictures / pictures_per_step))
    rate = method.learning_rate_with(optimizer) if options.learning_rate is None else options.learning_rate
    return Recipe(
        method.objective,
        optimizer,
        cast(float, rate),
        WEIGHT_DECAY[optimizer] if options.weight_decay is None else options.weight_decay,
        steps,
        warmup_steps(options.warmup_ratio, steps),
        options.per_device_train_batch_size,
        options.gradient_accumulation_steps,
        augment,
        seed,
        options.dataloader_num_workers,
        options.warmup,
        options.lr_scheduler_type,
        options.logging_steps,
    )


def warmup_steps(ratio: float, steps: int) -> int:
    """
    Compute how long the warmup lasts. At least the last step uses the peak learning rate.

    Args:
        ratio: share of the steps, at least 0 and less than 1.
        steps: number of steps of the run.

    Returns:
        Number of steps before the peak learning rate.
    """
    return min(round(ratio * steps), steps - 1)


def choose_anchors(options: TrainingOptions, method: Method) -> Anchors:
    """
    Choose the anchors of a run.

    Args:
        options: the user's options; they take precedence.
        method: its defaults are used for options that are None.

    Returns:
        The anchors.

    Raises:
        ValueError: if the method leaves no adapter, or if a kind of text anchor is given without a weight.
    """
    given = {field.name: getattr(options, field.name) for field in fields(Anchors)}
    given = {name: value for name, value in given.items() if value is not None}
    anchors = Anchors(**{**method.anchors, **given})
    if anchors and not method.leaves_adapter:
        flags = ", ".join(f"--{name} {value}" for name, value in given.items())
        raise ValueError(
            f"{flags}: method {method.name} leaves no adapter without a head, and only such adapters can be held near "
            "the frozen CLIP; leave it out."
        )
    if "text_anchor" in given and not anchors.text_anchor_weight:
        raise ValueError(f"--text_anchor {anchors.text_anchor} has no weight; give --text_anchor_weight, such as 25.")
    return anchors


def choose_averaging(options: TrainingOptions, method: Method, epochs: int) -> Optional[Averaging]:
    """
    Choose how the learned parameters of a run are averaged over its epochs.

    Args:
        options: the user's options; they take precedence.
        method: its defaults are used for options that are None.
        epochs: number of epochs of the run.

    Returns:
        The Gaussian, in epochs; None: no average.

    Raises:
        ValueError: if only one of mean and standard deviation is known.
    """
    mean, std = options.averaging_mean, options.averaging_std
    if method.averaging is not None:
        defaults = [share * epochs for share in method.averaging]
        mean = defaults[0] if mean is None else mean
        std = defaults[1] if std is None and mean else std
    if not mean:
        if std is not None:
            raise ValueError(f"--averaging_std {std:g} has no mean; give --averaging_mean, in epochs.")
        return None
    if std is None:
        raise ValueError(f"--averaging_mean {mean:g} has no standard deviation; give --averaging_std, in epochs.")
    return Averaging(mean, std)
