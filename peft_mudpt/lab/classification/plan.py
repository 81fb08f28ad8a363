"""The plan of a run that adapts a CLIP: how it is trained, tested and saved."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Optional

import torch

from ...classifier.class_texts import ClassTexts
from ...classifier.prediction import PictureClassifier
from ...layer import layer_of
from ..backbone import EMBEDDED, FOR_PHOTOGRAPHS, KNOWS_SHAPES_ONLY
from ..class_texts import after_prompts_in_words, several
from ..data.loading import TestPictures
from ..evaluation import ValidationPictures, calibrate_task, distinct, evaluate_task
from ..feature_cache import FeatureCache, cached
from ..feature_keys import text_bank_key
from ..plan import Plan, picture_lines
from ..protocols import summarize
from ..recipe import Recipe
from ..report.words import nearest_words
from ..robustness import measure_robustness
from ..saving import check_it_reloads, reload, save_learned
from ..training.checkpoints import Checkpoints, trainable_tensors
from ..training.features import encode
from ..training.frozen_clip import FrozenClip, frozen_text_bank
from ..training.initialization import initialize, note_resumed
from ..training.loop import Progress
from ..training.pictures import train
from ..training.validation import Validation


@dataclass(frozen=True)
class ClassificationPlan(Plan):
    """
    A run that was checked and can be executed once (see `Plan`).

    Args:
        classifier: the classifier of the learner, which is trained.
        test_features: image features of the plain CLIP, by test set, if training does not change them (see
            `evaluation.evaluate_task`); else None.
        cache: what earlier runs computed; None: nothing is taken from them.
    """

    classifier: PictureClassifier
    test_features: Optional[dict[str, torch.Tensor]]
    cache: Optional[FeatureCache] = None

    @property
    def given_texts(self) -> Optional[ClassTexts]:
        """
        The texts of classes for the learner, after its text prompts if it has some; None: the template of each data
        set.
        """
        return self.learner.class_texts(self.experiment.class_texts)

    @property
    def names_new_classes(self) -> bool:
        """True if the learner can name classes that it was not trained on."""
        layer = layer_of(self.learner.model)
        return self.method.names_new_classes and (layer is None or not layer.num_class_contexts)

    @property
    def class_texts(self) -> ClassTexts:
        """The texts of the training classes for the learner, after its text prompts if it has some."""
        return self.given_texts or ClassTexts((self.data.template,))

    @property
    def anchor_texts(self) -> ClassTexts:
        """The texts of classes for the anchors: those of the flags, if there are several, or else the method's."""
        given = self.experiment.class_texts
        if given is not None and given.template is None:
            return given
        return ClassTexts.given(self.method.anchor_templates or [self.learner.template or self.data.template])

    @property
    def template_after_prompts(self) -> Optional[str]:
        """The text of a class that follows the text prompts; None if classes have several texts."""
        return self.class_texts.template

    def summary(self, metrics: dict[str, Any]) -> dict[str, Optional[float]]:
        return summarize(self.experiment.protocol, metrics, self.data.origin)

    def lines(self) -> dict[str, str]:
        text = self.class_texts.in_words()
        zero_shot = self._other_texts
        return {
            "CLIP": self.experiment.model_name_or_path,
            "method": self.method.name,
            "trainable parameters": f"{self.trainable_parameters:,}",
            "text of a class": after_prompts_in_words(text) if self.learner.has_text_prompts else text,
            "classes": str(len(self.task.class_names)),
            "training pictures": f"{len(self.task.train):,}",
            **picture_lines(self.selection, self.experiment.protocol),
            **({} if zero_shot is None else {"texts of zero-shot": zero_shot.in_words()}),
        }

    @property
    def _other_texts(self) -> Optional[ClassTexts]:
        """The texts of zero-shot CLIP, if they are several and the learner does not use them."""
        texts = self.experiment.class_texts
        return None if texts is None or texts.template is not None or texts == self.class_texts else texts

    def notes(self) -> list[str]:
        notes = []
        if self._other_texts is not None:
            notes.append(
                f"the classes of {self.method.name} keep one text, because its text prompts replace words of it; "
                "--templates and --descriptions give the texts of zero-shot CLIP and of anchors"
            )
        if self.experiment.model_name_or_path == EMBEDDED and self.data.origin.train_dir is not None:
            known = KNOWS_SHAPES_ONLY[0].lower() + KNOWS_SHAPES_ONLY[1:]
            notes.append(f"{known}: for photographs, name another one (--model_name_or_path {FOR_PHOTOGRAPHS})")
        if self.experiment.protocol.evaluate_on == "test" and self.task.calibration_pictures is None:
            notes.append(
                "probabilities are not calibrated, because no picture is left to validate on; --validation_shots 2 "
                "keeps two of each class from training"
            )
        options = self.experiment.training
        if options.load_best_model_at_end or options.early_stopping_patience is not None:
            notes.append(
                "the validation pictures choose the step, so that the calibration on them is somewhat too optimistic"
            )
        return [*notes, *self.selection.drawn.remarks]

    def train(self, checkpoints: Optional[Checkpoints]) -> Progress:
        return self._fit() if self.recipe is None else self._take_steps(self.recipe, checkpoints)

    def _fit(self) -> Progress:
        """Learn from the image features of the training pictures at once."""
        started, pictures = time.perf_counter(), self.task.train
        loading, image_processor = self.experiment.training.loading, self.backbone.image_processor
        features = encode(self.accelerator, self.classifier, pictures, image_processor, **loading, cache=self.cache)
        self.method.fit(self.learner.model, features, torch.tensor(pictures["label"][:]))
        return Progress(seconds=time.perf_counter() - started)

    def _take_steps(self, recipe: Recipe, checkpoints: Optional[Checkpoints]) -> Progress:
        """Learn by optimizer steps."""
        pictures, image_processor = self.task.train, self.backbone.image_processor
        if checkpoints is None or checkpoints.resume_from is None:
            initialize(
                self.accelerator, self.classifier.model, pictures, image_processor, recipe, self.method.initialize
            )
        else:
            note_resumed(self.classifier.model, pictures, recipe)
        frozen_clip = self._frozen_clip(recipe) if recipe.anchors else None
        arguments = (self.accelerator, self.classifier, pictures, image_processor, recipe, checkpoints, frozen_clip)
        return train(*arguments, cache=self.cache, validation=self._validation())

    def _validation(self) -> Optional[Validation]:
        """The tests on validation pictures that the options ask for."""
        options = self.experiment.training
        if not options.eval_steps:
            return None
        return Validation(
            self._validation_pictures.accuracy,
            trainable_tensors(self.classifier),
            options.eval_steps,
            options.load_best_model_at_end,
            options.early_stopping_patience,
        )

    def _frozen_clip(self, recipe: Recipe) -> FrozenClip:
        """The frozen CLIP that the anchors of the run refer to."""
        model, autocast = self.learner.model, self.accelerator.autocast
        if not recipe.anchors.need_texts:
            return FrozenClip(model, autocast=autocast)
        backbone, texts = self.backbone, self.anchor_texts.of(self.task.class_names)
        given = (model, backbone.tokenizer, texts, backbone.class_batch_size)
        key = partial(text_bank_key, self.accelerator, *given)
        bank = cached(self.accelerator, self.cache, key, partial(frozen_text_bank, *given))  # (C, D)
        return FrozenClip(model, bank.to(model.device), autocast)

    @property
    def _loading(self) -> dict[str, Any]:
        """How pictures are loaded and encoded after training, as arguments of `evaluation.evaluate_task`."""
        return {**self.experiment.training.loading, "features": self.test_features, "cache": self.cache}

    def calibrate(self) -> None:
        self.classifier.calibration = calibrate_task(self.task, self._validation_pictures.logits)

    @cached_property
    def _validation_pictures(self) -> ValidationPictures:
        return ValidationPictures(self.accelerator, self.backbone, self.classifier, self.task, **self._loading)

    def evaluate(self) -> dict[str, Any]:
        return evaluate_task(
            self.accelerator,
            self.backbone,
            self.learner.model,
            self.task,
            self.given_texts,
            self.names_new_classes,
            **self._loading,
            calibration=self.classifier.calibration,
        )

    def measure_robustness(self) -> Optional[list[dict[str, Any]]]:
        experiment = self.experiment
        return measure_robustness(
            self.accelerator,
            self.backbone,
            self.learner.model,
            self.task,
            experiment.robustness,
            experiment.protocol.seed,
            self.given_texts,
            self.names_new_classes,
            **experiment.training.loading,
        )

    def described(self) -> dict[str, Any]:
        calibration = self.classifier.calibration
        after_prompts, recipe, names = self.template_after_prompts, self.recipe, self.task.class_names
        number = Counter(self.task.train["label"][:])
        return {
            "template": after_prompts and (self.learner.template or self.data.template),
            "template_after_prompts": after_prompts,
            "class_texts": several(self.class_texts.only(names)),
            "zero_shot_texts": several(self.experiment.class_texts),
            "training_pictures": {name: number[label] for label, name in enumerate(distinct(names))},
            "prompt_initialization": recipe and recipe.prompt_initialization,
            "anchors": asdict(recipe.anchors) if recipe and recipe.anchors else None,
            "averaging": asdict(recipe.averaging) if recipe and recipe.averaging else None,
            "adversarial": recipe.adversarial.as_dict() if recipe and recipe.adversarial else None,
            "nearest_words": self._nearest_words(),
            "calibration": calibration and calibration.as_dict(),
        }

    def _nearest_words(self) -> Optional[list]:
        model = self.learner.model
        prompts = [p for name, p in model.named_parameters() if name.endswith(".text_prompts")]
        if not prompts or layer_of(model).num_class_contexts:  # then they are not those of the input
            return None
        # prompts[0] is (J, n, d_t); its first layer is the input layer
        return nearest_words(prompts[0][0], model.get_base_model(), self.backbone.tokenizer)

    def save(self, folder: Path) -> int:
        names, calibration = self.task.class_names, self.classifier.calibration
        return save_learned(self.learner, names, self.class_texts, folder, calibration)

    def check_it_reloads(self, folder: Path) -> None:
        backbone, names = self.backbone, self.task.class_names
        pixel_values = TestPictures(self.task.train, backbone.image_processor)[0]["pixel_values"][None]

        def logits_of(model: torch.nn.Module) -> torch.Tensor:
            classifier = backbone.classifier(model, names, self.class_texts)
            return classifier(pixel_values.to(backbone.device)).logits

        reloaded = reload(self.learner.model, backbone.load_clip(), folder)
        check_it_reloads(self.learner.model, reloaded, folder, logits_of)
