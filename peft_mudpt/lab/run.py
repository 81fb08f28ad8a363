"""Runs examples/fewshot.py: the three stages of an experiment, configured by flags."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Optional

from accelerate import Accelerator

from .arguments import Arguments
from .data.sources import DataOptions
from .experiment import execute, prepare, record
from .hub import create_hub_repo, push_to_hub
from .plan import Experiment, Plan
from .protocols import ProtocolOptions, metrics_behind, number_of_pictures
from .recipe import TrainingOptions
from .report.card import model_card
from .run_folder import CARD, claim, hold
from .terminal import printable
from .training.checkpoints import Checkpoints, drop_checkpoints, find_checkpoint


def run(arguments: Arguments) -> dict[str, Any]:
    """
    Train and test a method, and save the learned weights and `result.json` in `arguments.output_dir`.

    If this folder already holds the result of the same experiment, return that result without training.

    Args:
        arguments: the flags.

    Returns:
        The result, with the fields of `schema.FIELDS`.

    Raises:
        ValueError: if an argument, the data or the CLIP cannot be used. No file is written then.
        FloatingPointError: if the loss is NaN or infinite.
    """
    experiment = Experiment(
        arguments.part(DataOptions),
        arguments.method,
        arguments.model_name_or_path,
        arguments.config_fields(),
        arguments.template,
        arguments.part(ProtocolOptions),
        arguments.part(TrainingOptions),
    )
    folder, asked = Path(arguments.output_dir), experiment.asked
    finished = claim(folder, asked, arguments.overwrite_output_dir)
    accelerator = Accelerator(
        mixed_precision=arguments.mixed_precision,
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        log_with=arguments.report_to if arguments.with_tracking else None,
        project_dir=arguments.output_dir,
    )
    if arguments.with_tracking and not accelerator.log_with:
        raise ValueError(
            f"--with_tracking needs a tracker, but none of {arguments.report_to!r} is installed; install one with pip."
        )
    if finished is not None:
        say(accelerator, "already done", folder)
        _say_summary(accelerator, "{} after", finished["summary"], finished["metrics"])
        if arguments.push_to_hub and accelerator.is_main_process:
            hub_model_id = create_hub_repo(arguments.hub_model_id, arguments.hub_private_repo)
            model_card(finished, arguments.clip(), hub_model_id).save(folder / CARD)  # it names the repository
            say(accelerator, "uploaded to", push_to_hub(folder, hub_model_id, arguments.hub_private_repo))
        return finished

    # a run must resume with the same number of processes, because they divide the batches among themselves
    identity = {**asked, "processes": accelerator.num_processes}
    resume_from = find_checkpoint(folder, arguments.resume_from_checkpoint, identity)
    checkpoints = Checkpoints(folder, identity, arguments.checkpointing_steps, resume_from)
    plan = prepare(experiment, accelerator)
    _say_plan(plan)
    hub_model_id = arguments.hub_model_id
    if arguments.push_to_hub and accelerator.is_main_process:  # fail before training if the Hub refuses
        hub_model_id = create_hub_repo(arguments.hub_model_id, arguments.hub_private_repo)
    with hold(folder, asked, arguments.overwrite_output_dir) if accelerator.is_main_process else nullcontext():
        if arguments.with_tracking:
            settings = {name: value for name, value in asked.items() if value is not None}
            accelerator.init_trackers("peft_mudpt", config=settings)
        if resume_from is not None and plan.recipe is not None:
            say(accelerator, "goes on from", resume_from)
        outcome = execute(plan, checkpoints)
        _say_summary(accelerator, "{} after", outcome.summary, outcome.metrics)
        known = {name: value for name, value in outcome.summary.items() if value is not None}
        accelerator.log(known, step=outcome.progress.step)
        result = record(outcome, folder, hub_model_id, held=True)
        if accelerator.is_main_process:
            drop_checkpoints(folder)
    if accelerator.is_main_process:
        if plan.method.leaves_adapter:
            say(accelerator, "adapter saved to", folder)
            say(accelerator, "reloaded", "equal logits")
        say(accelerator, "seconds", f"{result['seconds']['total']:.0f}")
        if arguments.push_to_hub:
            say(accelerator, "uploaded to", push_to_hub(folder, hub_model_id, arguments.hub_private_repo))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result


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
    lines = {
        "method": plan.method.name,
        "trainable parameters": f"{plan.trainable_parameters:,}",
        "text after prompts": plan.template_after_prompts,
        "classes": len(plan.task.class_names),
        "training pictures": f"{len(plan.task.train):,}",
        "test pictures": f"{sum(len(test.pictures) for test in plan.task.tests.values()):,}",
    }
    for name, value in lines.items():
        say(plan.accelerator, name, value)
    for remark in plan.drawn.remarks:
        say(plan.accelerator, "note", remark)
    if not plan.task.tests:
        say(plan.accelerator, "note", "no picture is left to test on: lower --shots")
    _say_summary(plan.accelerator, "zero-shot {}", plan.summary(plan.zero_shot), plan.zero_shot)


def _say_summary(
    accelerator: Accelerator, title: str, summary: dict[str, Optional[float]], metrics: dict[str, Any]
) -> None:
    for name, value in summary.items():
        words = "n/a" if value is None else f"{value:.1f} %"
        if measured := metrics_behind(name, metrics):
            balanced = measured["mean_class_accuracy"]
            words += f" of {number_of_pictures(measured):,} pictures, balanced {balanced:.1f} %"
        say(accelerator, title.format(name.replace("_", " ")), words)
