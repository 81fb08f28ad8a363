"""One experiment, from its arguments to its result."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Optional

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from peft import PeftModel

from .arguments import Arguments
from .backbone import Bench
from .data.draws import Drawn, draw
from .data.loading import PixelCollator, picture
from .data.sources import load_data
from .environment import hardware, peak_memory_bytes, reset_peak_memory, versions
from .methods import Learner, build, check_method
from .protocols import Task, lay_out, summarise
from .report.card import create_hub_repo, model_card, push_to_hub
from .report.words import nearest_words
from .run_folder import ADAPTER_CONFIG, CARD, claim, end_run, start_run
from .saving import check_it_reloads, save_learned
from .schema import write_result
from .training.checkpoints import drop_checkpoints, find_checkpoint
from .training.loop import Progress, checkpoint_identity, choose_recipe, train


def run(arguments: Arguments) -> dict[str, Any]:
    """
    Draw, train, test, and leave the adapter and `result.json` in `output_dir`.

    A folder that already holds this very experiment's result is left as it is, and its result returned.

    Returns:
        The result; its fields are those of `results.FIELDS`.

    Raises:
        ValueError: for anything the arguments name that cannot be used. Nothing has been written then.
        FloatingPointError: if the loss is no longer a number.
    """
    started = time.perf_counter()
    folder = Path(arguments.output_dir)
    check_method(arguments.method)
    finished = claim(folder, arguments.identity(), arguments.overwrite_output_dir)
    accelerator = Accelerator(
        mixed_precision=arguments.mixed_precision,
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        log_with=arguments.report_to if arguments.with_tracking else None,
        project_dir=arguments.output_dir,
    )
    if arguments.with_tracking and not accelerator.log_with:
        raise ValueError(
            f"--with_tracking: no tracker of {arguments.report_to!r} is installed; pip install one of them."
        )
    if finished is not None:
        say(accelerator, "already done", folder)
        _say_summary(accelerator, "{} after", finished["summary"])
        if accelerator.is_main_process and arguments.push_to_hub:
            arguments.hub_model_id = create_hub_repo(arguments.hub_model_id, arguments.hub_private_repo)
            _write_card(arguments, finished, folder)  # which tells where the adapter lies
            say(accelerator, "uploaded to", push_to_hub(folder, arguments.hub_model_id, arguments.hub_private_repo))
        return finished

    checkpoint = find_checkpoint(folder, arguments.resume_from_checkpoint, checkpoint_identity(arguments, accelerator))
    set_seed(arguments.seed)
    data = load_data(arguments)
    drawn = draw(data, arguments.shots, arguments.seed)
    task = lay_out(arguments, data, drawn)
    for row in task.train:
        picture(row)  # one that cannot be read stops the run now
    bench = Bench(accelerator, arguments)
    learner = build(
        arguments.method,
        arguments.config_fields(),
        bench.load_clip(),
        bench.tokenizer,
        task.class_names,
        arguments.template,
    )
    after_prompts = learner.template_after_prompts or data.template
    trainable = sum(parameter.numel() for parameter in learner.model.parameters() if parameter.requires_grad)
    what = {"method": arguments.method, "trainable parameters": f"{trainable:,}", "text after prompts": after_prompts}
    _say_what(accelerator, what, task, drawn)
    zero_shot = bench.test(bench.load_clip(), task, arguments.template)
    _say_summary(accelerator, "zero-shot {}", summarise(arguments, zero_shot))

    if accelerator.is_main_process:
        if arguments.push_to_hub:
            # what cannot be shared stops here; the id comes back with the user's name
            arguments.hub_model_id = create_hub_repo(arguments.hub_model_id, arguments.hub_private_repo)
        lock = start_run(folder, arguments.identity(), arguments.overwrite_output_dir)
    if arguments.with_tracking:
        settings = {name: value for name, value in arguments.identity().items() if value is not None}
        accelerator.init_trackers("peft_mudpt", config=settings)
    recipe = choose_recipe(arguments, data, len(task.train), accelerator.num_processes)
    progress, metrics, memory = Progress(), zero_shot, peak_memory_bytes(accelerator)
    if recipe is not None:
        if checkpoint is not None:
            say(accelerator, "goes on from", checkpoint)
        reset_peak_memory(accelerator)
        progress = train(
            accelerator,
            bench.classifier(learner.model, task.class_names, after_prompts),
            task.train,
            bench.image_processor,
            recipe,
            arguments,
            folder,
            checkpoint,
        )
        memory = peak_memory_bytes(accelerator)
        metrics = bench.test(learner.model, task, learner.template_after_prompts)
    summary = summarise(arguments, metrics)
    _say_summary(accelerator, "{} after", summary)
    accelerator.log({name: value for name, value in summary.items() if value is not None}, step=progress.step)

    result = {
        "arguments": arguments.to_share(),
        "dataset": data.name,
        "method": arguments.method,
        "class_names": task.class_names,
        "template": learner.template or data.template,
        "template_after_prompts": after_prompts,
        "items": {"train": task.train["item"][:], "validation": task.validation["item"][:]},
        "metrics": metrics,
        "zero_shot": zero_shot,
        "summary": summary,
        "optimizer": recipe and recipe.optimizer,
        "learning_rate": recipe and recipe.learning_rate,
        "steps": progress.step,
        "loss": progress.loss,
        "trainable_parameters": trainable,
        "nearest_words": _nearest_words(learner.model, bench),
        "versions": versions(),
        "hardware": hardware(accelerator),
    }
    if accelerator.is_main_process:
        result["adapter_bytes"] = save_learned(learner, task.class_names, after_prompts, folder)
        if isinstance(learner.model, PeftModel):
            _check_it_reloads(learner, bench, task, after_prompts, folder)
            say(accelerator, "adapter saved to", folder)
            say(accelerator, "reloaded", "equal logits")
        result["seconds"] = {"training": progress.seconds, "total": time.perf_counter() - started}
        result["peak_memory_bytes"] = memory
        _write_card(arguments, result, folder)
        write_result(folder, result)
        drop_checkpoints(folder)
        end_run(lock)
        say(accelerator, "seconds", f"{result['seconds']['total']:.0f}")
        if arguments.push_to_hub:
            say(accelerator, "uploaded to", push_to_hub(folder, arguments.hub_model_id, arguments.hub_private_repo))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result


def say(accelerator: Accelerator, name: str, value: Any) -> None:
    """One line for the user, once."""
    accelerator.print(f"{name:<26}{value}")


def _say_what(accelerator: Accelerator, what: dict[str, Any], task: Task, drawn: Drawn) -> None:
    for name, value in what.items():
        say(accelerator, name, value)
    say(accelerator, "classes", len(task.class_names))
    say(accelerator, "training pictures", f"{len(task.train):,}")
    say(accelerator, "test pictures", f"{sum(len(test.pictures) for test in task.tests.values()):,}")
    for remark in drawn.remarks:
        say(accelerator, "note", remark)
    if not task.tests:
        say(accelerator, "note", "no picture is left to test on: lower --shots")


def _say_summary(accelerator: Accelerator, title: str, summary: dict[str, Optional[float]]) -> None:
    for name, value in summary.items():
        shown = "cannot be said" if value is None else f"{value:.1f} %"
        say(accelerator, title.format(name.replace("_", " ")), shown)


def _write_card(arguments: Arguments, result: dict[str, Any], folder: Path) -> None:
    """The model card of an adapter; what has none gets none."""
    if (folder / ADAPTER_CONFIG).is_file():
        model_card(result, arguments.clip(), arguments.hub_model_id).save(folder / CARD)


def _nearest_words(model: torch.nn.Module, bench: Bench) -> Optional[list]:
    prompts = [p for name, p in model.named_parameters() if name.endswith(".text_prompts")]
    if not prompts:
        return None
    return nearest_words(prompts[0][0], model.base_model.model, bench.tokenizer)  # of (J, n, d_t) the input layer's


def _check_it_reloads(learner: Learner, bench: Bench, task: Task, after_prompts: str, folder: Path) -> None:
    pixel_values = PixelCollator(bench.image_processor)([(picture(task.train[0]), 0)])["pixel_values"]
    pixel_values = pixel_values.to(bench.accelerator.device)

    def logits_of(model: PeftModel) -> torch.Tensor:
        return bench.classifier(model, task.class_names, after_prompts)(pixel_values).logits

    check_it_reloads(learner.model, bench.load_clip(), folder, logits_of)
