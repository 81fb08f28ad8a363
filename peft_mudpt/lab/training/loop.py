"""The training loop: minimizes an objective over a fixed sequence of batches, by SGD or AdamW."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..recipe import Recipe
from .averaging import RunningAverage
from .checkpoints import Checkpoints, only_what_is_learned, trainable_tensors
from .objectives import Objective
from .validation import Validation


WARMUP_LEARNING_RATE = 1e-5  # at the first step; as in the configurations of CoOp and of the methods that follow it
LARGEST_WEIGHT = 10_000  # larger ones come from a diverged training, and may overflow half precision (65,504)


@dataclass
class Progress:
    """
    The progress of training, which is saved in checkpoints.

    Args:
        step: optimizer steps done.
        loss: mean loss over the steps since the previous report; None before the first report.
        seconds: training time, including the time before interruptions.
        validation: accuracy on validation pictures in percent, by the number of steps done; empty if none was tested.
        kept_step: number of steps after which the final parameters were learned; None: those of the last step.
    """

    step: int = 0
    loss: Optional[float] = None
    seconds: float = 0.0
    validation: dict[int, float] = field(default_factory=dict)
    kept_step: Optional[int] = None

    def as_validation(self) -> Optional[dict[str, Any]]:
        """The tests on validation pictures as `result.json` stores them; None if there were none."""
        tests = [{"step": step, "accuracy": accuracy} for step, accuracy in self.validation.items()]
        return {"tests": tests, "kept_step": self.kept_step} if tests else None

    def state_dict(self) -> dict:
        """The fields by name; `accelerate` saves them."""
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        """Set the fields to those that `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)


def minimize(
    accelerator: Accelerator,
    module: torch.nn.Module,
    loader: DataLoader,
    objective: Objective,
    recipe: Recipe,
    checkpoints: Optional[Checkpoints] = None,
    kept: Sequence[Any] = (),
    average: Optional[RunningAverage] = None,
    started: Optional[float] = None,
    brief: bool = False,
    validation: Optional[Validation] = None,
) -> Progress:
    """
    Train the parameters of a module that require a gradient, in place.

    Args:
        accelerator: an accelerator that was not used for another model.
        module: what the objective calls, in training mode.
        loader: all batches of the run, in their order. The accelerator prepares it.
        objective: the loss.
        recipe: how to train.
        checkpoints: where and how often to save, and from which checkpoint to resume; None: no checkpoints.
        kept: further objects whose state belongs to a checkpoint.
        average: the average of the learned parameters; None: there is none.
        started: time at which training began, in seconds of `time.perf_counter`; None: now.
        brief: True for one of many short trainings, such as a round of a federation: it shows no progress bar, and
            leaves the accelerator, which is used no more, as it is.
        validation: tests on validation pictures, which may end training early; None: there are none.

    Returns:
        The progress at the end.

    Raises:
        FloatingPointError: if the loss is NaN or infinite, or if a learned weight is beyond `LARGEST_WEIGHT`. The
            state is then not saved, so that the last checkpoint has a finite loss.
        RuntimeError: if the accelerator gives fewer batches than `recipe.steps` needs.
    """
    started = time.perf_counter() if started is None else started
    optimizer = build_optimizer(module, recipe)
    schedule = build_schedule(optimizer, recipe)
    progress = Progress()
    with only_what_is_learned(accelerator):
        prepared, optimizer, loader = accelerator.prepare(module, optimizer, loader)
        stateful = [*kept, *(each for each in (average, validation) if each is not None)]
        accelerator.register_for_checkpointing(schedule, progress, *stateful)
        if checkpoints is not None and checkpoints.resume_from is not None:
            checkpoints.restore(accelerator)
            loader = accelerator.skip_first_batches(loader, progress.step * recipe.gradient_accumulation_steps)

        started -= progress.seconds
        losses = torch.zeros(2, device=accelerator.device)  # sum and count of the losses since the previous report
        quiet = brief or not accelerator.is_local_main_process
        with tqdm(total=recipe.steps, initial=progress.step, desc="training", disable=quiet) as bar:
            # a run may resume at its last step, where accelerate 1.3 yields None instead of no batch
            for batch in () if _is_over(progress, recipe, validation) else loader:
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
                objective.after_step(module, progress.step, recipe.steps)
                if average is not None:
                    average.after_step(progress.step)
                bar.update()
                if validation is not None and validation.is_due(progress.step, progress.step == recipe.steps):
                    accelerator.log({"validation_accuracy": validation.test(progress.step)}, step=progress.step)
                is_over = _is_over(progress, recipe, validation)
                due = checkpoints is not None and checkpoints.is_due(progress.step)
                if due or progress.step % recipe.logging_steps == 0 or is_over:
                    total, number = accelerator.reduce(losses, "sum").tolist()
                    progress.loss = total / number
                    losses.zero_()
                    progress.seconds = time.perf_counter() - started
                    _check_loss(progress, recipe, accelerator.mixed_precision)
                    _check_weights(module, progress, recipe)
                    bar.set_postfix(loss=f"{progress.loss:.3f}")
                    rate = schedule.get_last_lr()[0]
                    accelerator.log({"loss": progress.loss, "learning_rate": rate}, step=progress.step)
                if due:
                    checkpoints.save(accelerator, progress.step)
                if validation is not None and validation.stops:
                    break
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)  # evaluation runs without autocast
    if not brief:  # it collects garbage, which takes longer than a few steps
        accelerator.free_memory()  # otherwise the accelerator would keep references to the model
    if not _is_over(progress, recipe, validation):
        raise RuntimeError(
            f"Training ended after {progress.step} of {recipe.steps} steps. Check the settings of `accelerate config`."
        )
    if validation is not None:
        validation.finish()
        progress.validation, progress.kept_step = validation.accuracies, validation.kept_step
    return progress


def _is_over(progress: Progress, recipe: Recipe, validation: Optional[Validation]) -> bool:
    """Whether all steps are done, or the tests on validation pictures say that further ones are of no use."""
    return progress.step >= recipe.steps or (validation is not None and validation.stops)


def build_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """
    Make the optimizer: SGD with momentum 0.9, or AdamW.

    Args:
        model: the parameters that require a gradient are optimized.
        recipe: names the optimizer, the learning rate and the weight decay.

    Returns:
        The optimizer, set to the peak learning rate.
    """
    parameters = list(trainable_tensors(model).values())
    # `foreach` updates all parameters by one call, with the same bits; on a CPU it is not the default
    options = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "foreach": True}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    return torch.optim.SGD(parameters, momentum=0.9, **options)


def build_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> LambdaLR:
    """
    Make the schedule of the learning rate: for `recipe.warmup_steps` the constant `WARMUP_LEARNING_RATE`, or a line
    from it to the peak; then a cosine or a line from the peak to zero, or the peak.

    Args:
        optimizer: an optimizer of `build_optimizer`.
        recipe: gives the peak learning rate, the kind and number of warmup steps, the kind of decay, and the total
            number of steps.

    Returns:
        The schedule, to be advanced after each optimizer step.
    """

    first = min(1.0, WARMUP_LEARNING_RATE / recipe.learning_rate)

    def factor(step: int) -> float:
        if step < recipe.warmup_steps:
            return first + (1 - first) * step / recipe.warmup_steps if recipe.warmup == "linear" else first
        if recipe.decay == "constant":
            return 1.0
        done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
        return 1 - done if recipe.decay == "linear" else (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, factor)


def _check_loss(progress: Progress, recipe: Recipe, mixed_precision: str) -> None:
    if not math.isfinite(progress.loss):
        precision = "" if mixed_precision == "no" else f", or train without --mixed_precision {mixed_precision}"
        raise FloatingPointError(
            f"The loss became {progress.loss} by step {progress.step}. "
            f"Lower --learning_rate, now {recipe.learning_rate:g}{precision}."
        )


def _check_weights(model: torch.nn.Module, progress: Progress, recipe: Recipe) -> None:
    """Refuse weights that diverged with a finite loss: the cross-entropy of a linear probe only grows like them."""
    largest = torch.stack([weight.detach().abs().max().float() for weight in trainable_tensors(model).values()]).max()
    if not largest <= LARGEST_WEIGHT:  # NaN is not less than anything
        raise FloatingPointError(
            f"A learned weight became {largest.item():g} by step {progress.step}, but healthy ones stay below "
            f"{LARGEST_WEIGHT:,}. Lower --learning_rate, now {recipe.learning_rate:g}."
        )
