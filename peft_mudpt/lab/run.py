"""Runs examples/fewshot.py and fewshot_detection.py: the stages of an experiment, configured by flags."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Optional

from accelerate import Accelerator, DataLoaderConfiguration

from .arguments import RunArguments
from .environment import keep_freed_memory
from .experiment import check_accelerator, execute, prepare, select
from .hub import create_hub_repo, push_to_hub
from .plan import BaseExperiment, Plan
from .recording import record
from .report.card import model_card
from .run_folder import CARD, claim, drop_checkpoints, lock, own_checkpoints, start
from .storage import write_text
from .terminal import printable
from .training.checkpoints import LATEST, Checkpoints, find_checkpoint
from .training.loop import Progress
from .training.validation import best_step


# what trackers call the name of a run when they start
RUN_NAMES = {
    "wandb": "name",
    "trackio": "name",
    "mlflow": "run_name",
    "clearml": "task_name",
    "swanlab": "experiment_name",
}


def run(arguments: RunArguments) -> dict[str, Any]:
    """
    Train and test a method, and save the learned weights and `result.json` in `arguments.output_dir`.

    If this folder already holds the result of the same experiment, return that result without training. If it holds a
    checkpoint of this experiment, go on from there.

    Args:
        arguments: the flags.

    Returns:
        The result, with the fields of `schema.FIELDS`.

    Raises:
        ValueError: if an argument, the data or the model cannot be used, or if another process uses the folder. No
            file is written then.
        FloatingPointError: if the loss or a weight becomes too large or NaN.
        KeyboardInterrupt: if the user interrupts the run; the message says how to go on.
    """
    accelerator = Accelerator(
        mixed_precision=arguments.mixed_precision,
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        log_with=arguments.report_to if arguments.with_tracking else None,
        project_dir=arguments.output_dir,
        dataloader_config=DataLoaderConfiguration(non_blocking=True),
    )
    keep_freed_memory(accelerator.device)
    if arguments.with_tracking and not accelerator.log_with:
        raise ValueError(
            f"--with_tracking needs a tracker, but none of {arguments.report_to!r} is installed; install one with pip."
        )
    experiment = arguments.experiment().launched(accelerator.mixed_precision)
    check_accelerator(accelerator, experiment.training)
    folder = Path(arguments.output_dir)
    try:
        with lock(folder) if accelerator.is_main_process else nullcontext():
            result = _run_in(folder, arguments, experiment, accelerator)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(folder, arguments.overwrite_output_dir)) from None
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result


def _run_in(
    folder: Path, arguments: RunArguments, experiment: BaseExperiment, accelerator: Accelerator
) -> dict[str, Any]:
    """Run an experiment in a folder that is locked for it."""
    selection = select(experiment)
    identity = experiment.identity(selection, accelerator.num_processes)
    finished = claim(folder, identity, arguments.overwrite_output_dir)
    if finished is not None:
        _say_finished(folder, finished, arguments, experiment, accelerator)
        return finished
    from_checkpoint = arguments.resume_from_checkpoint or (None if arguments.overwrite_output_dir else LATEST)
    resume_from = find_checkpoint(folder, from_checkpoint, identity)
    checkpoints = Checkpoints(
        folder, identity, arguments.checkpointing_steps or None, resume_from, arguments.save_total_limit
    )
    plan = prepare(experiment, accelerator, selection)
    _say_plan(plan)
    if plan.recipe is not None:
        _say_checkpoint(folder, resume_from, arguments.overwrite_output_dir, accelerator)
    hub_model_id = arguments.hub_model_id
    if arguments.push_to_hub and accelerator.is_main_process:  # fail before training if the Hub refuses
        hub_model_id = create_hub_repo(arguments.hub_model_id, arguments.hub_private_repo)
    overwrite = arguments.overwrite_output_dir
    with (
        start(folder, identity, overwrite, arguments.tracker_project) if accelerator.is_main_process else nullcontext()
    ):
        if arguments.with_tracking:
            settings = {name: value for name, value in plan.experiment.asked.items() if value is not None}
            name = arguments.run_name
            named = {} if name is None else {tracker: {option: name} for tracker, option in RUN_NAMES.items()}
            accelerator.init_trackers(arguments.tracker_project, config=settings, init_kwargs=named)
        outcome = execute(plan, checkpoints)
        _say_validation(accelerator, outcome.progress)
        _say_outcome(accelerator, experiment, outcome.summary, outcome.metrics, outcome.robustness)
        known = {name: value for name, value in outcome.summary.items() if value is not None}
        accelerator.log(known, step=outcome.progress.step)
        result = record(outcome, folder, hub_model_id, held=True)
    if accelerator.is_main_process:
        drop_checkpoints(folder)
        if plan.method.is_trained:
            say(accelerator, f"{'adapter' if plan.method.leaves_adapter else 'weights'} saved to", folder)
            say(accelerator, "reloaded", "equal logits: what was saved answers like what was trained")
        say(accelerator, "seconds", f"{result['seconds']['total']:.0f}")
        if arguments.push_to_hub:
            say(accelerator, "uploaded to", push_to_hub(folder, hub_model_id, arguments.hub_private_repo))
    return result


def _say_finished(
    folder: Path,
    finished: dict[str, Any],
    arguments: RunArguments,
    experiment: BaseExperiment,
    accelerator: Accelerator,
) -> None:
    """Report the result of a run that has already finished; delete what it left when it was killed, and upload it."""
    say(accelerator, "already done", folder)
    _say_outcome(accelerator, experiment, finished["summary"], finished["metrics"], finished["robustness"])
    if not accelerator.is_main_process:
        return
    drop_checkpoints(folder)
    if arguments.push_to_hub:
        hub_model_id = create_hub_repo(arguments.hub_model_id, arguments.hub_private_repo)
        base = experiment.backbone.source().name_or_path
        cards = [str(model_card(finished, base, name)) for name in (None, hub_model_id)]
        if (folder / CARD).exists() and (folder / CARD).read_text(encoding="utf-8") not in cards:
            say(accelerator, "note", f"{CARD} was changed, and is uploaded as it is; delete it to write it anew")
        else:
            write_text(folder / CARD, cards[1])  # it names the repository
        say(accelerator, "uploaded to", push_to_hub(folder, hub_model_id, arguments.hub_private_repo))


def _say_checkpoint(folder: Path, resume_from: Optional[Path], overwrite: bool, accelerator: Accelerator) -> None:
    """Say from which checkpoint the run goes on, and which of the folder is not used."""
    if resume_from is not None:
        say(accelerator, "goes on from", resume_from)
    for checkpoint in own_checkpoints(folder)[-1:]:
        if overwrite:
            say(accelerator, "note", f"{checkpoint} is deleted, because of --overwrite_output_dir")
        elif checkpoint.resolve() != resume_from.resolve():
            say(accelerator, "note", f"{checkpoint} is ignored: --resume_from_checkpoint {LATEST} goes on from it")


def _how_to_go_on(folder: Path, overwrite: bool) -> str:
    checkpoints = own_checkpoints(folder)
    if not checkpoints:
        return "interrupted before the first checkpoint; the same command starts again"
    without = " without --overwrite_output_dir" if overwrite else ""
    return f"interrupted; the same command{without} goes on from {checkpoints[-1]}"


def say(accelerator: Accelerator, name: str, value: Any) -> None:
    """
    Print one line. Of several processes, only one per machine prints.

    Args:
        accelerator: the accelerator of the run.
        name: label of the line.
        value: what follows the label.
    """
    accelerator.print(f"{name:<26}{printable(str(value))}")


def _say_plan(plan: Plan) -> None:
    for name, value in plan.lines().items():
        say(plan.accelerator, name, value)
    for note in plan.notes():
        say(plan.accelerator, "note", note)
    for name, value in plan.experiment.summary_lines(plan.summary(plan.zero_shot), plan.zero_shot).items():
        say(plan.accelerator, f"zero-shot {name}", value)


def _say_validation(accelerator: Accelerator, progress: Progress) -> None:
    if progress.validation:
        best = best_step(progress.validation)
        words = f"best {progress.validation[best]:.1f} % after {best} steps; kept: step {progress.kept_step}"
        say(accelerator, "validation accuracy", f"{words} of {progress.step}")


def _say_outcome(
    accelerator: Accelerator,
    experiment: BaseExperiment,
    summary: dict[str, Optional[float]],
    metrics: dict[str, Any],
    robustness: Optional[list[dict[str, Any]]],
) -> None:
    for name, value in experiment.summary_lines(summary, metrics).items():
        say(accelerator, f"{name} after", value)
    for name, value in (*experiment.calibration_lines(metrics), *experiment.robustness_lines(robustness)):
        say(accelerator, name, value)
