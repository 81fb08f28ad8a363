"""The stages of an experiment: `select` draws pictures, `prepare` checks, `execute` trains and tests.

The last one, `record`, is in `recording.py`.
"""

from __future__ import annotations

import time
from typing import Any, Optional

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from ..classifier.class_texts import ClassTexts
from .backbone import Backbone
from .class_texts import check_template_is_used, check_texts
from .data.draws import draw
from .data.loading import check_pictures
from .data.options import DataOptions
from .data.sources import load_data
from .environment import peak_memory_bytes, random_state, reset_peak_memory, set_random_state
from .evaluation import evaluate_task
from .learner import Ground
from .methods import find_method
from .plan import Experiment, Outcome, Plan, Selection
from .protocols import lay_out
from .recipe import Recipe, TrainingOptions, choose_recipe
from .robustness import measure_robustness
from .training.checkpoints import Checkpoints
from .training.features import encode, has_fixed_image_features
from .training.frozen_clip import FrozenClip
from .training.initialization import check_prompt_initialization, initialize, note_resumed
from .training.loop import Progress
from .training.objectives import check_anchors
from .training.pictures import train


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
        ImportError: if an attack of `experiment.robustness` needs a package that is not installed.
    """
    started = time.perf_counter()
    protocol, training = experiment.protocol, experiment.training
    method = find_method(experiment.method)
    accelerator = accelerator or Accelerator(
        mixed_precision=training.mixed_precision, gradient_accumulation_steps=training.gradient_accumulation_steps
    )
    check_accelerator(accelerator, training)
    experiment.robustness.attacks(protocol.seed)  # one whose library is missing stops the run here
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
        adversarial=experiment.adversarial,
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
        The outcome, to be given to `recording.record`.

    Raises:
        FloatingPointError: if the loss is NaN or infinite.
    """
    accelerator, learner = plan.accelerator, plan.learner
    if not plan.method.is_trained:
        return Outcome(plan, plan.zero_shot, Progress(), peak_memory_bytes(accelerator), _robustness(plan))
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
        plan.names_new_classes,
        **_loading(plan.experiment.training),
        features=plan.test_features,
    )
    return Outcome(plan, metrics, progress, memory, _robustness(plan))


def _robustness(plan: Plan) -> Optional[list[dict[str, Any]]]:
    experiment = plan.experiment
    return measure_robustness(
        plan.accelerator,
        plan.backbone,
        plan.learner.model,
        plan.task,
        experiment.robustness,
        experiment.protocol.seed,
        plan.given_texts,
        plan.names_new_classes,
        experiment.training.per_device_eval_batch_size,
    )


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
