"""A client in the lab: it trains an adapter on its pictures with the training loop of single runs, and tests it."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import torch
from accelerate import Accelerator

from ...classifier.class_texts import ClassTexts
from ...classifier.prediction import PictureClassifier
from ...federated.arrays import Arrays, adapter_arrays, load_adapter_arrays
from ...federated.domains import train_only_domain
from ..backbone import Backbone
from ..data.loaders import make_loader
from ..data.loading import IMAGE_FEATURES, PIXEL_VALUES, Known, TestPictures
from ..data.memory import MEMORY
from ..environment import keep_freed_memory
from ..evaluation import metrics_of
from ..learner import Ground, Learner
from ..logits import predict_logits
from ..recipe import Recipe, recipe_of_loop
from ..training.features import encode, has_fixed_image_features
from ..training.pictures import train
from ..training_options import TrainingOptions
from .options import FederatedArguments
from .partition import ClientData


if TYPE_CHECKING:
    from datasets import Dataset


log = logging.getLogger("flwr")

PICTURE_MEMORY = 2**30  # bytes of the pixel values that the clients of one process keep


@dataclass
class Workbench:
    """
    The adapted CLIP with which the clients of one process work in turn, since each loads the numbers that it gets.

    Args:
        arguments: the flags.
        backbone: the CLIP that is adapted.
        learner: the adapted CLIP.
        class_names: the classes of all clients.
        texts: the texts of the classes, which follow the text prompts.
        classifier: the classifier with the adapter.
        plain: the classifier without it, whose texts are those of zero-shot CLIP.
        initial: the numbers of the adapter before training.
    """

    arguments: FederatedArguments
    backbone: Backbone
    learner: Learner
    class_names: list[str]
    texts: ClassTexts
    classifier: PictureClassifier
    plain: PictureClassifier
    initial: Arrays

    @classmethod
    def build(cls, arguments: FederatedArguments, class_names: list[str]) -> Workbench:
        """
        Load the CLIP and give it the adapter. The numbers of the adapter depend on the seed alone.

        Args:
            arguments: the flags.
            class_names: the classes; the position of a name is its label.

        Raises:
            ValueError: if the method does not fit the CLIP.
        """
        # not NumPy's generator, from which Flower draws noise that must stay unknown
        torch.manual_seed(arguments.seed)
        MEMORY.begin(PICTURE_MEMORY)
        device = Accelerator().device
        keep_freed_memory(device)
        backbone = Backbone.load(arguments.source(), device, arguments.class_batch_size)
        ground = Ground(
            backbone.load_clip(),
            backbone.tokenizer,
            class_names,
            arguments.template,
            fields=arguments.fields_of_config(),
            revision=arguments.model_revision,
        )
        learner = arguments.found_method.apply(ground)
        plain = ClassTexts.given(arguments.template)
        texts = learner.class_texts(None) or plain
        adapted, zero_shot = (backbone.classifier(learner.model, class_names, each) for each in (texts, plain))
        initial = adapter_arrays(learner.model)
        return cls(arguments, backbone, learner, class_names, texts, adapted, zero_shot, initial)

    def arrays(self) -> Arrays:
        """The numbers of the adapter."""
        return adapter_arrays(self.learner.model)

    def load(self, arrays: Arrays) -> None:
        """Set the numbers of the adapter."""
        load_adapter_arrays(self.learner.model, arrays)

    @cached_property
    def has_fixed_image_features(self) -> bool:
        """True if training leaves the features of pictures as they are, so that they can be kept."""
        return has_fixed_image_features(self.classifier.train())

    def known(self, pictures: Dataset) -> Known:
        """
        What is computed once of pictures, which are not augmented: their features, if training does not change them,
        or else the pixel values that fit in memory.
        """
        processor = self.backbone.image_processor
        if not len(pictures):
            return {}
        if self.has_fixed_image_features:
            size = self.arguments.per_device_eval_batch_size
            return {IMAGE_FEATURES: encode(Accelerator(), self.classifier.eval(), pictures, processor, size)}
        return {PIXEL_VALUES: MEMORY.pixel_values(pictures, processor)}

    def recipe(self, data: ClientData, server_round: int, num_clients: int = 1) -> Recipe:
        """
        How a client trains in a round.

        Args:
            data: the pictures of the client.
            server_round: the round, counted from 1.
            num_clients: how many clients the pictures come from; each step takes so many batches at once.
        """
        arguments = self.arguments
        own = TrainingOptions(
            optimizer=arguments.optimizer,
            learning_rate=arguments.learning_rate,
            weight_decay=arguments.weight_decay,
            warmup_ratio=0,
            per_device_train_batch_size=arguments.per_device_train_batch_size * num_clients,
            max_train_steps=arguments.local_steps,
        )
        method = arguments.found_method
        if arguments.objective is not None:
            method = replace(method, objective=arguments.objective)
        # another order of the pictures for each client and round, whatever happened before
        seed = int(np.random.SeedSequence([arguments.seed, data.number, server_round]).generate_state(1)[0])
        recipe = recipe_of_loop(own, method, len(data.train), 1, data.may_be_cropped, seed)
        decay = (1 + math.cos(math.pi * (server_round - 1) / arguments.num_rounds)) / 2
        return replace(recipe, learning_rate=recipe.learning_rate * decay, decay="constant")


class FewShotClient:
    """
    A client of a federation (see `federated.client.Client`).

    Args:
        bench: the adapted CLIP, which it shares with the other clients of its process.
        data: its pictures.
        num_clients: how many clients the pictures come from; more than one only for centralized training, which has no
            domain of its own.
    """

    def __init__(self, bench: Workbench, data: ClientData, num_clients: int = 1):
        if data.class_names != bench.class_names:
            more, fewer = (
                set(data.class_names) - set(bench.class_names),
                set(bench.class_names) - set(data.class_names),
            )
            raise ValueError(
                f"The domain {data.domain_name} has other classes: more are {sorted(more)[:5]}, fewer are "
                f"{sorted(fewer)[:5]}. All domains must have the same classes."
            )
        for remark in data.remarks:
            log.warning("client %d, %s: %s", data.number, data.domain_name, remark)
        self.bench = bench
        self.data = data
        self.num_clients = num_clients
        self.number, self.domain, self.domain_name = data.number, data.domain, data.domain_name
        self.class_names, self.num_examples = data.class_names, len(data.train)

    @cached_property
    def _known(self) -> Known:
        augmented = self.bench.recipe(self.data, 1).augment
        return {} if augmented else self.bench.known(self.data.train)

    @cached_property
    def _test_known(self) -> Known:
        return self.bench.known(self.data.test)

    def train(self, arrays: Arrays, server_round: int) -> tuple[Arrays, dict[str, float]]:
        """Train the adapter for one round (see `federated.client.Client.train`)."""
        bench = self.bench
        bench.load(arrays)
        if self.num_clients == 1:
            train_only_domain(bench.learner.model, self.domain)
        recipe = bench.recipe(self.data, server_round, self.num_clients)
        processor = bench.backbone.image_processor
        known = [self._known] if self._known else ()
        progress = train(Accelerator(), bench.classifier, self.data.train, processor, recipe, known=known, brief=True)
        assert progress.loss is not None, "each round has a step"
        return bench.arrays(), {"loss": progress.loss}

    def evaluate(self, arrays: Optional[Arrays]) -> tuple[int, dict[str, float]]:
        """Test an adapter, or the CLIP without one (see `federated.client.Client.evaluate`)."""
        bench, pictures = self.bench, self.data.test
        if not len(pictures):
            return 0, {"accuracy": 0.0}
        if arrays is not None:
            bench.load(arrays)
        model: Any = bench.learner.model
        classifier = bench.plain if arrays is None else bench.classifier
        # without the adapter, the features of pictures are the same only if training leaves them as they are
        samples = TestPictures(pictures, bench.backbone.image_processor, self._test_known)
        accelerator = Accelerator()
        loader = make_loader(accelerator, samples, bench.arguments.per_device_eval_batch_size, num_workers=0)
        loader = accelerator.prepare(loader)
        with model.disable_adapter() if arrays is None else nullcontext():
            logits = predict_logits(accelerator, classifier, loader, progress_bar=False)
        metrics = metrics_of(logits.argmax(dim=-1), pictures["label"][:], bench.class_names, pictures["item"][:])
        return len(pictures), {"accuracy": metrics["accuracy"]}
