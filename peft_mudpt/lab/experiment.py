"""One experiment in stages: `select` draws pictures, `prepare` checks, `execute` trains and tests, `record` saves."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from ..classifier.class_texts import ClassTexts
from .backbone import Backbone
from .class_texts import check_template_is_used, check_texts, several
from .data.draws import draw
from .data.loading import TestPictures, check_pictures
from .data.options import DataOptions
from .data.sources import load_data
from .environment import (
    hardware,
    peak_memory_bytes,
    random_state,
    reset_peak_memory,
    set_random_state,
    versions,
)
from .evaluation import distinct, evaluate_task
from .identity import to_share
from .learner import Ground
from .methods import find_method
from .plan import Experiment, Outcome, Plan, Selection
from .protocols import lay_out
from .recipe import Recipe, TrainingOptions, choose_recipe
from .report.card import model_card
from .report.words import nearest_words
from .run_folder import CARD, hold
from .saving import check_it_reloads, save_learned
from .schema import write_result, write_text
from .training.checkpoints import Checkpoints
from .training.features import encode, has_fixed_image_features
from .training.frozen_clip import FrozenClip
from .training.initialization import check_prompt_initialization, initialize, note_resumed
from .training.loop import Progress, train
from .training.objectives import check_anchors


def select(experiment: Experiment) -> Selection:
    """
    Load the data set, and choose the pictures of a run.

    Args:
        experiment: the description of the run.

    Returns:
        The pictures, not yet decoded.

    Raises:
        ValueError: if the data cannot be used.
    """
    data = load_data(experiment.data) if isinstance(experiment.data, DataOptions) else experiment.data
    protocol = experiment.protocol
    drawn = draw(data, protocol.shots, protocol.seed, protocol.evaluate_on)
    return Selection(data, drawn, lay_out(protocol, data, drawn))


def prepare(
    experiment: Experiment, accelerator: Optional[Accelerator] = None, selection: Optional[Selection] = None
) -> Plan:
    """
    Apply the method to a CLIP, and test the plain CLIP.

    This stage checks every option and reads every picture of the run once, so that a mistake stops the run before
    training. It seeds the global random number generators. It writes no file.

    Args:
        experiment: the description of the run.
        accelerator: an accelerator that was not used for another run, with the `mixed_precision` and the
            `gradient_accumulation_steps` of `experiment.training`; None: make a new one.
        selection: what `select` returned for this experiment; None: select the pictures now.

    Returns:
        The plan, to be given to `execute`.

    Raises:
        ValueError: if an option is wrong, if the accelerator contradicts `experiment.training`, or if the data or the
            CLIP cannot be used.
    """
    started = time.perf_counter()
    protocol, training = experiment.protocol, experiment.training
    method = find_method(experiment.method)
    accelerator = accelerator or Accelerator(
        mixed_precision=training.mixed_precision, gradient_accumulation_steps=training.gradient_accumulation_steps
    )
    check_accelerator(accelerator, training)
    selection = selection or select(experiment)
    data, task = selection.data, selection.task
    texts = check_texts(experiment, selection)
    set_seed(protocol.seed)
    # unreadable pictures stop the run here, not in the middle of training
    check_pictures(task.train, *(test.pictures for test in task.tests.values()))
    backbone = Backbone.load(experiment.backbone.source(), accelerator.device, training.class_batch_size)
    clip, template = backbone.load_clip(), experiment.template
    fields, revision = experiment.method_kwargs, experiment.model_revision
    plain_texts = texts or ClassTexts.given(data.template)
    ground = Ground(clip, backbone.tokenizer, task.class_names, template, fields, revision, plain_texts)
    learner = method.apply(ground)
    check_template_is_used(experiment, learner)
    recipe = choose_recipe(
        training,
        method,
        pictures=len(task.train),
        processes=accelerator.num_processes,
        may_be_cropped=data.may_be_cropped,
        seed=protocol.seed,
    )
    if recipe is not None:
        check_anchors(recipe.anchors, learner.model)
    classifier = backbone.classifier(learner.model, task.class_names, learner.class_texts(texts) or data.template)
    if recipe is not None:
        check_prompt_initialization(recipe, classifier.model)
    # of the plain CLIP; the trained one is tested on them, too
    features: Optional[dict[str, torch.Tensor]] = {} if has_fixed_image_features(classifier) else None
    loading = {**_loading(training), "features": features}
    zero_shot = evaluate_task(accelerator, backbone, backbone.load_clip(), task, texts, **loading)
    return Plan(
        experiment.launched(accelerator.mixed_precision),
        selection,
        method,
        backbone,
        learner,
        classifier,
        recipe,
        zero_shot,
        features,
        accelerator,
        random_state(),
        started,
    )


def _loading(training: TrainingOptions) -> dict[str, int]:
    """How test pictures are loaded, as arguments of `evaluate_task`."""
    return {"batch_size": training.per_device_eval_batch_size, "num_workers": training.dataloader_num_workers}


def check_accelerator(accelerator: Accelerator, training: TrainingOptions) -> None:
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
        The outcome, to be given to `record`.

    Raises:
        FloatingPointError: if the loss is NaN or infinite.
    """
    if not plan.method.is_trained:
        return Outcome(plan, plan.zero_shot, Progress(), peak_memory_bytes(plan.accelerator))
    accelerator, learner = plan.accelerator, plan.learner
    set_random_state(plan.random_state)  # other runs may have been prepared since this one
    reset_peak_memory(accelerator)
    progress = _fit(plan) if plan.recipe is None else _train(plan, plan.recipe, checkpoints)
    memory = peak_memory_bytes(accelerator)
    metrics = evaluate_task(
        accelerator,
        plan.backbone,
        learner.model,
        plan.task,
        plan.given_texts,
        plan.method.names_new_classes,
        **_loading(plan.experiment.training),
        features=plan.test_features,
    )
    return Outcome(plan, metrics, progress, memory)


def _fit(plan: Plan) -> Progress:
    """Learn from the image features of the training pictures at once."""
    started, pictures = time.perf_counter(), plan.task.train
    loading, image_processor = _loading(plan.experiment.training), plan.backbone.image_processor
    features = encode(plan.accelerator, plan.classifier, pictures, image_processor, **loading)
    plan.method.fit(plan.learner.model, features, torch.tensor(pictures["label"][:]))
    return Progress(seconds=time.perf_counter() - started)


def _train(plan: Plan, recipe: Recipe, checkpoints: Optional[Checkpoints]) -> Progress:
    """Learn by optimizer steps."""
    pictures, image_processor = plan.task.train, plan.backbone.image_processor
    if checkpoints is None or checkpoints.resume_from is None:
        initialize(plan.classifier.model, pictures, image_processor, recipe, plan.method.initialize)
    else:
        note_resumed(plan.classifier.model, pictures, recipe)
    frozen_clip = _frozen_clip(plan) if recipe.anchors else None
    return train(plan.accelerator, plan.classifier, pictures, image_processor, recipe, checkpoints, frozen_clip)


def _frozen_clip(plan: Plan) -> FrozenClip:
    """The frozen CLIP that the anchors of a run refer to."""
    model, autocast = plan.learner.model, plan.accelerator.autocast
    if not plan.recipe.anchors.need_texts:
        return FrozenClip(model, autocast=autocast)
    backbone, texts = plan.backbone, plan.anchor_texts.of(plan.task.class_names)
    return FrozenClip.with_texts(model, backbone.tokenizer, texts, backbone.class_batch_size, autocast)


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
        "optimizer": recipe and recipe.optimizer,
        "learning_rate": recipe and recipe.learning_rate,
        "prompt_initialization": recipe and recipe.prompt_initialization,
        "anchors": asdict(recipe.anchors) if recipe and recipe.anchors else None,
        "averaging": asdict(recipe.averaging) if recipe and recipe.averaging else None,
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
    if not prompts:
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
