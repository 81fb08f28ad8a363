"""Accuracy, in total and per class."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from peft_mudpt import demo
from peft_mudpt.lab.backbone import Backbone, BackboneOptions
from peft_mudpt.lab.data.embedded import load_embedded
from peft_mudpt.lab.evaluation import ValidationPictures, metrics_of
from peft_mudpt.lab.logits import predict_logits


NAMES = ["filled red star", "hollow blue heart", "filled green cross"]


class Parrot(torch.nn.Module):
    """Predicts the class whose label is the value of the picture."""

    def forward(self, pixel_values):
        return ImageClassifierOutputWithNoAttention(logits=torch.eye(3)[pixel_values.flatten()])


def accuracy_of(predicted, labels, names=NAMES, batch_size=2):
    """Evaluate a classifier that predicts `predicted`, one class per picture."""
    samples = [
        {"pixel_values": torch.tensor([p]), "labels": torch.tensor(label)} for p, label in zip(predicted, labels)
    ]
    items = [f"{i}.png" for i in range(len(samples))]
    found = predict_logits(Accelerator(), Parrot(), DataLoader(samples, batch_size))
    return metrics_of(found.argmax(dim=-1), labels, names, items)


def test_accuracy_is_over_pictures_and_mean_class_accuracy_over_classes():
    metrics = accuracy_of([0, 0, 0, 1, 0], [0, 0, 0, 1, 1])
    assert metrics["accuracy"] == pytest.approx(80) and metrics["mean_class_accuracy"] == pytest.approx(75)
    assert metrics["classes"] == {NAMES[0]: [3, 3], NAMES[1]: [1, 2], NAMES[2]: [0, 0]}


def test_classes_that_share_a_name_are_counted_separately():
    metrics = accuracy_of([0, 1, 0], [0, 1, 1], names=["crane", "crane", "cat"])
    assert metrics["classes"] == {"crane [0]": [1, 1], "crane [1]": [1, 2], "cat": [0, 0]}


def test_the_prediction_of_each_picture_is_kept_by_its_true_class():
    metrics = accuracy_of([0, 2, 1], [0, 0, 1], names=["crane", "crane", "cat"])
    assert metrics["predictions"] == {
        "crane [0]": {"0.png": "crane [0]", "1.png": "cat"},
        "crane [1]": {"2.png": "crane [1]"},
    }


def test_validation_pictures_are_prepared_once_for_all_tests(fresh_accelerator):
    accelerator, pictures = Accelerator(), load_embedded("noisy").test.select(range(0, 60, 10))  # ten of each class
    backbone = Backbone.load(BackboneOptions().source(), accelerator.device)
    names = [name for name, _ in zip(demo.CLASS_NAMES, range(6))]
    classifier = backbone.classifier(backbone.load_clip(), names, "{}.").train()
    validation = ValidationPictures(accelerator, backbone, classifier, SimpleNamespace(validation=pictures))
    found = [validation.accuracy() for _ in range(3)]
    assert len(accelerator._dataloaders) == 1 and classifier.training
    predicted = classifier.eval().predict(pictures["image"][:])
    true = [names[label] for label in pictures["label"][:]]
    assert found == [pytest.approx(100 * sum(p == t for p, t in zip(predicted, true)) / 6)] * 3


def test_a_bar_shows_the_progress_of_testing(capsys):
    accuracy_of([0, 1, 2], [0, 1, 2], batch_size=1)
    assert "testing" in capsys.readouterr().err


def test_the_names_of_many_classes_are_counted_once():
    class Names(list):
        def count(self, value):
            pytest.fail("a count for each class reads all names: minutes for 21,841 classes")

    assert accuracy_of([0], [0], names=Names(NAMES))["classes"][NAMES[0]] == [1, 1]
