"""The stages of a run: `select` draws pictures, `prepare` checks, `execute` trains and tests.

The last one, `record`, is in `recording.py`. All of them are the same for each task.
"""

from __future__ import annotations

import time
from typing import Any, Optional

from accelerate import Accelerator
from accelerate.utils import set_seed

from .data.loading import check_pictures
from .data.memory import MEMORY
from .environment import peak_memory_bytes, reset_peak_memory, set_random_state
from .plan import BaseExperiment, Outcome, Plan, Selection
from .training.checkpoints import Checkpoints
from .training.loop import Progress
from .training_options import LoopOptions


def select(experiment: BaseExperiment) -> Selection:
    """
    Load the data set, and choose the pictures of a run.

    Args:
        experiment: the description of the run.

    Returns:
        The pictures, not yet decoded.

    Raises:
        ValueError: if the data cannot be used.
    """
    return experiment.select()


def prepare(
    experiment: BaseExperiment, accelerator: Optional[Accelerator] = None, selection: Optional[Selection] = None
) -> Any:
    """
    Apply the method to a model, and test the plain model.

    This stage checks every option and reads every picture of the run once, so that a mistake stops the run before
    training. It seeds the global random number generators. It writes no file, except in the cache of features.

    Args:
        experiment: the description of the run.
        accelerator: an accelerator that was not used for another run, with the `mixed_precision` and the
            `gradient_accumulation_steps` of `experiment.training`; None: make a new one.
        selection: what `select` returned for this experiment; None: select the pictures now.

    Returns:
        The plan, to be given to `execute`.

    Raises:
        ValueError: if an option is wrong, if the accelerator contradicts `experiment.training`, or if the data or the
            model cannot be used.
        ImportError: if the experiment needs a package that is not installed.
    """
    started = time.perf_counter()
    training = experiment.training
    accelerator = accelerator or Accelerator(
        mixed_precision=training.mixed_precision, gradient_accumulation_steps=training.gradient_accumulation_steps
    )
    check_accelerator(accelerator, training)
    reset_peak_memory(accelerator)
    MEMORY.begin(training.picture_memory * 2**30)
    experiment.check()  # an unknown method or a missing package stops the run here
    selection = selection or select(experiment)
    experiment.check_selection(selection)
    set_seed(experiment.protocol.seed)
    # unreadable pictures stop the run here, not in the middle of training
    task = selection.task
    held_out = [] if task.calibration_pictures is None else [task.calibration_pictures]
    check_pictures(task.train, *held_out, *(test.pictures for test in task.tests.values()))
    return experiment.plan(selection, accelerator, started)


def check_accelerator(accelerator: Accelerator, training: LoopOptions) -> None:
    """
    Check that an accelerator does what the options ask for.

    Args:
        accelerator: the accelerator of the run.
        training: the options.

    Raises:
        ValueError: if the accelerator has other gradient accumulation steps or another precision than the options, or
            if it divides the batches in another way than the training loop assumes.
    """
    asked = {"gradient_accumulation_steps": training.gradient_accumulation_steps}
    if training.mixed_precision is not None:
        asked["mixed_precision"] = training.mixed_precision
    for name, value in asked.items():
        if (found := getattr(accelerator, name)) != value:
            raise ValueError(
                f"The accelerator has {name}={found!r}, but the experiment asks for {value!r}. Give the same to both. "
                f"The environment variable ACCELERATE_{name.upper()} also sets it."
            )
    for name in ("split_batches", "dispatch_batches"):
        if getattr(accelerator, name):
            raise ValueError(
                f"The accelerator has {name}=True, but each process must load its own batches. Leave it out."
            )


def execute(plan: Plan, checkpoints: Optional[Checkpoints] = None) -> Outcome:
    """
    Train the plan's learner in place, and test it.

    Args:
        plan: what `prepare` returned.
        checkpoints: where and how often to save checkpoints, and from which one to resume; None: write no file.

    Returns:
        The outcome, to be given to `recording.record`.

    Raises:
        FloatingPointError: if the loss is NaN or infinite.
    """
    accelerator = plan.accelerator
    if not plan.method.is_trained:
        memory = peak_memory_bytes(accelerator)
        plan.calibrate()
        return Outcome(plan, plan.zero_shot, Progress(), memory, plan.measure_robustness())
    set_random_state(plan.random_state)  # other runs may have been prepared since this one
    reset_peak_memory(accelerator)
    progress = plan.train(checkpoints)
    memory = peak_memory_bytes(accelerator)
    plan.calibrate()
    return Outcome(plan, plan.evaluate(), progress, memory, plan.measure_robustness())
