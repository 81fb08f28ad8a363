"""Training objectives; the loop depends on none of them in particular."""

import pytest
import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy, normalize

from peft_mudpt import MuDPTClassifier
from peft_mudpt.lab.training.loop import train
from peft_mudpt.lab.training.objectives import OBJECTIVES, CrossEntropy, Objective
from tests.lab.training.test_loop import NAMES, PROCESSOR, TOKENIZER, learner, pictures, recipe_of


pytestmark = pytest.mark.usefixtures("fresh_accelerator")
__all__ = ["pictures"]  # a fixture


def classifier_of(method="mudpt"):
    torch.manual_seed(0)
    return MuDPTClassifier(learner(method), NAMES, "{}.", TOKENIZER)


def batch_of(size):
    images = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": images, "labels": torch.arange(size) % len(NAMES)}


def test_the_loss_is_the_cross_entropy_of_the_logits():
    classifier, batch = classifier_of(), batch_of(4)
    expected = cross_entropy(classifier(batch["pixel_values"]).logits, batch["labels"])
    torch.testing.assert_close(CrossEntropy().loss(classifier, batch), expected)


def test_the_classifier_returns_the_normalized_features_of_its_logits():
    classifier, batch = classifier_of(), batch_of(2)
    output = classifier(pixel_values=batch["pixel_values"])
    features = classifier.model.get_image_features(pixel_values=batch["pixel_values"]).pooler_output
    torch.testing.assert_close(output.image_features, normalize(features, dim=-1))
    torch.testing.assert_close(output.class_features.norm(dim=-1), torch.ones(len(NAMES)))
    cosine = output.image_features @ output.class_features.t()
    torch.testing.assert_close(output.logits, cosine * classifier.model.logit_scale.exp())


def test_another_objective_is_minimized_and_called_after_every_step(pictures, monkeypatch):
    calls = []

    class Align(Objective):
        """Squared distance of each image from its own class."""

        def loss(self, classifier, batch):
            output = classifier(pixel_values=batch["pixel_values"])
            return (output.image_features - output.class_features[batch["labels"]]).square().sum(dim=-1).mean()

        def after_step(self, classifier, step, steps):
            calls.append((step, steps, classifier))

    monkeypatch.setitem(OBJECTIVES, "align", Align)
    classifier, batch = classifier_of(), batch_of(3)
    before = Align().loss(classifier.eval(), batch).item()
    recipe = recipe_of(objective="align", steps=20, crop=False)
    progress = train(Accelerator(), classifier, pictures, PROCESSOR, recipe)
    assert [step for step, _, _ in calls] == list(range(1, 21)) and calls[0][1:] == (20, classifier)
    assert progress.loss < before
