"""The last stage of an experiment: `record` saves the learned weights, the model card and the result."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

import torch

from ..layer import layer_of
from .class_texts import several
from .data.loading import TestPictures
from .environment import hardware, versions
from .evaluation import distinct
from .identity import to_share
from .plan import Outcome, Plan
from .report.card import model_card
from .report.words import nearest_words
from .run_folder import CARD, hold
from .saving import check_it_reloads, save_learned
from .schema import write_result
from .storage import write_text


def record(
    outcome: Outcome, folder: str | os.PathLike, hub_model_id: Optional[str] = None, held: bool = False
) -> dict[str, Any]:
    """
    Save the learned weights, the model card of an adapter and, last, `result.json`. Only the main process writes.

    Args:
        outcome: what `execute` returned.
        folder: the folder to write to: a new one, or one that already belongs to this run but holds no result.
        hub_model_id: the id on the Hub from which the card loads the adapter; None: the card loads it from a path.
        held: True if the caller holds the folder for this run (see `run_folder.hold`).

    Returns:
        The result, with the fields of `schema.FIELDS` except `schema_version`. On a process other than the main one,
        it also lacks `adapter_bytes` and `seconds`.

    Raises:
        ValueError: if the folder holds the result of this or another run, or if another process is using it.
        RuntimeError: if the weights, loaded again from the folder, give other logits than the trained model.
    """
    plan, folder = outcome.plan, Path(folder)
    learner, task, recipe = plan.learner, plan.task, plan.recipe
    after_prompts = plan.template_after_prompts
    result = {
        "arguments": to_share(plan.experiment.asked),
        "dataset": plan.data.name,
        "method": plan.method.name,
        "class_names": task.class_names,
        "template": after_prompts and (learner.template or plan.data.template),
        "template_after_prompts": after_prompts,
        "class_texts": several(plan.class_texts.only(task.class_names)),
        "zero_shot_texts": several(plan.experiment.class_texts),
        "items": {"train": task.train["item"][:], "validation": task.validation["item"][:]},
        "training_pictures": _by_class(task.train["label"][:], task.class_names),
        "metrics": outcome.metrics,
        "zero_shot": plan.zero_shot,
        "summary": outcome.summary,
        "robustness": outcome.robustness,
        "optimizer": recipe and recipe.optimizer,
        "learning_rate": recipe and recipe.learning_rate,
        "prompt_initialization": recipe and recipe.prompt_initialization,
        "anchors": asdict(recipe.anchors) if recipe and recipe.anchors else None,
        "averaging": asdict(recipe.averaging) if recipe and recipe.averaging else None,
        "adversarial": recipe.adversarial.as_dict() if recipe and recipe.adversarial else None,
        "steps": outcome.progress.step,
        "loss": outcome.progress.loss,
        "trainable_parameters": plan.trainable_parameters,
        "nearest_words": _nearest_words(plan),
        "versions": versions(),
        "hardware": hardware(plan.accelerator),
        "peak_memory_bytes": outcome.peak_memory_bytes,
    }
    if not plan.accelerator.is_main_process:
        return result
    with nullcontext() if held else hold(folder, plan.identity):
        result["adapter_bytes"] = save_learned(learner, task.class_names, plan.class_texts, folder)
        if plan.method.is_trained:
            _check_it_reloads(plan, folder)
        result["seconds"] = {"training": outcome.progress.seconds, "total": time.perf_counter() - plan.started}
        if plan.method.leaves_adapter:
            write_text(folder / CARD, str(model_card(result, plan.backbone.source.name_or_path, hub_model_id)))
        write_result(folder, result)
    return result


def _by_class(labels: list[int], class_names: list[str]) -> dict[str, int]:
    """The number of pictures of each class."""
    number = Counter(labels)
    return {name: number[label] for label, name in enumerate(distinct(class_names))}


def _nearest_words(plan: Plan) -> Optional[list]:
    model = plan.learner.model
    prompts = [p for name, p in model.named_parameters() if name.endswith(".text_prompts")]
    if not prompts or layer_of(model).num_class_contexts:  # then they are not those of the input
        return None
    # prompts[0] is (J, n, d_t); its first layer is the input layer
    return nearest_words(prompts[0][0], model.get_base_model(), plan.backbone.tokenizer)


def _check_it_reloads(plan: Plan, folder: Path) -> None:
    backbone, names = plan.backbone, plan.task.class_names
    pixel_values = TestPictures(plan.task.train, backbone.image_processor)[0]["pixel_values"][None]

    def logits_of(model: torch.nn.Module) -> torch.Tensor:
        classifier = backbone.classifier(model, names, plan.class_texts)
        return classifier(pixel_values.to(backbone.device)).logits

    check_it_reloads(plan.learner.model, backbone.load_clip(), folder, logits_of)
