"""The description of a run that adapts a CLIP to classify images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Optional, Union

import torch
from accelerate import Accelerator

from ...classifier.class_texts import ClassTexts
from ..adversarial import AdversarialOptions, title_of
from ..backbone import Backbone, BackboneOptions
from ..calibration import calibration_lines
from ..class_texts import check_template_is_used, check_texts
from ..data.class_texts import identify_descriptions, identify_templates, read_descriptions, read_templates
from ..data.draws import draw
from ..data.few_shot_data import FewShotData
from ..data.options import DataOptions
from ..data.sources import load_data
from ..environment import random_state
from ..evaluation import ValidationPictures, calibrate_task, evaluate_task
from ..feature_cache import CacheOptions
from ..identity import what_was_asked
from ..intervals import accuracy_in_words
from ..learner import Ground
from ..method import CLASSIFICATION
from ..methods import MethodOptions
from ..plan import BaseExperiment, Selection
from ..protocols import ProtocolOptions, lay_out, metrics_behind
from ..recipe import choose_recipe
from ..robustness import RobustnessOptions
from ..training.features import has_fixed_image_features
from ..training.initialization import check_prompt_initialization
from ..training.objectives import check_anchors
from ..training_options import TrainingOptions
from .plan import ClassificationPlan


if TYPE_CHECKING:
    from ..arguments import Arguments


@dataclass(frozen=True)
class Experiment(BaseExperiment):
    """
    The description of a run.

    Args:
        data: a data set, such as `load_folders("my_pictures")`, or the options that name one.
        method: name of a record of `methods.METHODS`, or of a preset.
        model_name_or_path: the CLIP: a Hub id, a folder, or "embedded".
        method_kwargs: fields of the method's config that replace its defaults.
        protocol: which classes and data sets are used for training and testing; by default few-shot with 16 pictures
            of each class.
        training: options of training and testing; by default those of the method.
        model_revision: branch, tag or commit of the CLIP's repository on the Hub; None: the main branch.
        template: text of a class, with `{}` for its name; None: the default of the method or the data set.
        templates: several texts of a class, for zero-shot CLIP and for methods without text prompts; None: one
            template.
        descriptions: further texts of each class, by class name, for the same.
        adversarial: options of learning from attacked pictures; by default those of the method.
        robustness: options of testing on attacked pictures; by default none is attacked.
        reuse: which results of earlier runs are taken instead of computing them again.
    """

    data: Union[FewShotData, DataOptions]
    method: str = "mudpt"
    protocol: ProtocolOptions = ProtocolOptions()
    training: TrainingOptions = TrainingOptions()
    template: Optional[str] = None
    templates: Optional[Sequence[str]] = None
    descriptions: Optional[Mapping[str, Sequence[str]]] = None
    adversarial: AdversarialOptions = AdversarialOptions()
    robustness: RobustnessOptions = RobustnessOptions()
    reuse: CacheOptions = CacheOptions()

    task: ClassVar[str] = CLASSIFICATION

    @classmethod
    def of(cls, arguments: Arguments) -> Experiment:
        """
        Describe the run that the flags ask for.

        Args:
            arguments: the flags.

        Returns:
            The description.

        Raises:
            ValueError: if a file that a flag names cannot be read.
        """
        return cls(
            arguments.part(DataOptions),
            arguments.method,
            arguments.model_name_or_path,
            arguments.config_fields(),
            arguments.part(ProtocolOptions),
            arguments.part(TrainingOptions),
            arguments.model_revision,
            arguments.template,
            None if arguments.templates is None else read_templates(arguments.templates),
            None if arguments.descriptions is None else read_descriptions(Path(arguments.descriptions)),
            arguments.part(AdversarialOptions),
            arguments.part(RobustnessOptions),
            arguments.part(CacheOptions),
        )

    @property
    def class_texts(self) -> Optional[ClassTexts]:
        """
        The texts of classes for a CLIP without text prompts; None: the template of each data set.

        Raises:
            ValueError: if they are no texts (see `ClassTexts.given`).
        """
        templates = self.template if self.templates is None else self.templates
        return None if templates is self.descriptions is None else ClassTexts.given(templates, self.descriptions)

    @property
    def backbone(self) -> BackboneOptions:
        return BackboneOptions(self.model_name_or_path, self.model_revision)

    @property
    def asked(self) -> dict[str, Any]:
        method_kwargs = json.dumps(dict(self.method_kwargs), ensure_ascii=False) if self.method_kwargs else None
        return what_was_asked(
            self.backbone,
            MethodOptions(
                self.method,
                method_kwargs,
                self.template,
                identify_templates(self.templates),  # the content, wherever the file is
                identify_descriptions(self.descriptions),
            ),
            self.data if isinstance(self.data, DataOptions) else self.data.origin,
            self.protocol,
            self.training,
            self.adversarial,
            self.robustness,
        )

    def loaded(self) -> FewShotData:
        return load_data(self.data) if isinstance(self.data, DataOptions) else self.data

    def select(self) -> Selection:
        data, protocol = self.loaded(), self.protocol
        drawn = draw(data, protocol.shots, protocol.seed, protocol.evaluate_on, protocol.validation_shots)
        return Selection(data, drawn, lay_out(protocol, data, drawn))

    def check(self) -> None:
        super().check()
        self.robustness.attacks(self.protocol.seed)  # one whose library is missing stops the run here

    def check_selection(self, selection: Selection) -> None:
        check_texts(self, selection)
        if self.training.eval_steps and not len(selection.task.validation):
            raise ValueError(
                f"--eval_steps {self.training.eval_steps} tests on validation pictures, but no picture is left for "
                "them. --validation_shots 2 keeps two of each class from training."
            )

    def plan(self, selection: Selection, accelerator: Accelerator, started: float) -> ClassificationPlan:
        data, task, training = selection.data, selection.task, self.training
        method, texts = self.found_method, self.class_texts
        backbone = Backbone.load(
            self.backbone.source(), accelerator.device, training.class_batch_size, training.image_size
        )
        plain_texts = texts or ClassTexts.given(data.template)
        learner = method.apply(
            Ground(
                backbone.load_clip(),
                backbone.tokenizer,
                task.class_names,
                self.template,
                self.method_kwargs,
                self.model_revision,
                plain_texts,
            )
        )
        check_template_is_used(self, learner)
        recipe = choose_recipe(
            training,
            method,
            pictures=len(task.train),
            processes=accelerator.num_processes,
            may_be_cropped=data.may_be_cropped,
            seed=self.protocol.seed,
            adversarial=self.adversarial,
        )
        if recipe is not None:
            check_anchors(recipe.anchors, learner.model)
        classifier = backbone.classifier(learner.model, task.class_names, learner.class_texts(texts) or data.template)
        if recipe is not None:
            check_prompt_initialization(recipe, classifier.model)
        # of the plain CLIP; the trained one is tested on them, too
        features: dict[str, torch.Tensor] = {}
        cache = self.reuse.cache()
        reused = {**training.loading, "features": features, "cache": cache}
        clip = backbone.load_clip()
        plain = backbone.classifier(clip, task.class_names, plain_texts)
        logits = ValidationPictures(accelerator, backbone, plain, task, **reused, is_plain=True).logits
        calibration = calibrate_task(task, logits)
        zero_shot = evaluate_task(
            accelerator, backbone, clip, task, texts, **reused, is_plain=True, calibration=calibration
        )
        return ClassificationPlan(
            self.launched(accelerator.mixed_precision),
            selection,
            method,
            backbone,
            learner,
            recipe,
            zero_shot,
            accelerator,
            random_state(),
            started,
            classifier,
            features if has_fixed_image_features(classifier) else None,
            cache,
        )

    def summary_lines(
        self, summary: Mapping[str, Optional[float]], metrics: Mapping[str, Optional[Mapping[str, Any]]]
    ) -> dict[str, str]:
        lines = {}
        for name, value in summary.items():
            measured = metrics_behind(name, metrics)
            mean = "n/a" if value is None else f"{value:.1f} %"
            lines[name.replace("_", " ")] = mean if measured is None else accuracy_in_words(measured)
        return lines

    def calibration_lines(self, metrics: Mapping[str, Optional[Mapping[str, Any]]]) -> list[tuple[str, str]]:
        return calibration_lines(metrics)

    def robustness_lines(self, robustness: Optional[Sequence[Mapping[str, Any]]]) -> list[tuple[str, str]]:
        lines = []
        for found in robustness or ():
            for name, metrics in found["metrics"].items():
                if metrics is None:
                    continue
                of_test = "" if len(found["metrics"]) == 1 else f" of {name}"
                accuracies = f"{metrics['clean']:.1f} % -> {metrics['attacked']:.1f} %"
                lines.append((title_of(found), f"{accuracies} of {metrics['pictures']:,} pictures{of_test}"))
        return lines
