"""Tests on attacked pictures."""

import pytest
import torch

from peft_mudpt.lab.data.loading import TestPictures
from peft_mudpt.lab.experiment import execute, prepare
from peft_mudpt.lab.recording import record
from peft_mudpt.lab.robustness import RobustnessOptions, first_of_each
from peft_mudpt.lab.schema import read_result
from peft_mudpt.robust import PGD, Normalization
from tests.lab.test_stages import experiment, folder


__all__ = ["folder"]  # a fixture
pytestmark = pytest.mark.usefixtures("fresh_accelerator")
BOTH = "embedding_kl:8/255:3, cross_entropy:0.02"


@pytest.mark.parametrize("method", ["zero_shot", "linear_probe", "coop"])
def test_the_accuracy_on_attacked_pictures_is_recorded(folder, tmp_path, method):
    options = RobustnessOptions(test_attacks=BOTH, test_attack_steps=2)
    outcome = execute(prepare(experiment(folder, method, robustness=options)))
    record(outcome, tmp_path / "run")
    found = read_result(tmp_path / "run")["robustness"]
    assert [(each["name"], each["attack"]["steps"]) for each in found] == [("embedding_kl", 3), ("cross_entropy", 2)]

    plan = outcome.plan
    (test,) = plan.task.tests.values()
    processor = plan.backbone.image_processor
    samples = [TestPictures(test.pictures, processor)[i] for i in range(len(test.pictures))]
    labels = torch.tensor([sample["labels"] for sample in samples])
    pixel_values = torch.stack([sample["pixel_values"] for sample in samples])
    normalization = Normalization.of(processor)
    classifier = plan.backbone.classifier(
        plan.learner.model, test.class_names, plan.given_texts or test.template
    ).eval()
    attack = PGD(0.02, 2, objective="cross_entropy", step_size=0.025, start="symmetric", seed=1)
    attacked = attack(classifier, normalization, normalization.undo(pixel_values), labels)
    with torch.no_grad():
        clean, robust = (
            100 * (classifier(values).logits.argmax(dim=-1) == labels).double().mean().item()
            for values in (pixel_values, normalization(attacked))
        )
    metrics = {"pictures": len(labels), "clean": pytest.approx(clean), "attacked": pytest.approx(robust)}
    assert found[1]["metrics"] == {"test": metrics}


def test_the_first_pictures_of_each_class_are_attacked():
    assert first_of_each([1, 0, 1, 0, 0, 1], 2) == [0, 1, 2, 3]
    assert first_of_each([1, 0, 1], None) == [0, 1, 2]


def test_without_attacks_nothing_is_attacked(folder):
    assert execute(prepare(experiment(folder, "zero_shot"))).robustness is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"test_attacks": "pgd:4/255"}, "'pgd:4/255'.*embedding_kl, cross_entropy, apgd_ce"),
        ({"test_attacks": "cross_entropy"}, "--test_attacks 'cross_entropy'.*8/255"),
        ({"test_attacks": "cross_entropy:8"}, "'cross_entropy:8'.*8/255"),
        ({"test_attacks": "cross_entropy:8/255:0"}, "'cross_entropy:8/255:0'.*NAME:EPS:STEPS"),
        ({"test_attacks": "cross_entropy:8/255:1:1"}, "NAME:EPS:STEPS"),
        ({"test_attacks": "cross_entropy:1/255,cross_entropy:1/255"}, "twice"),
        ({"test_attack_pictures": 3}, "--test_attack_pictures 3.*--test_attacks"),
        ({"test_attacks": BOTH, "test_attack_steps": 0}, "--test_attack_steps=0"),
    ],
    ids=str,
)
def test_options_that_name_no_attack_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RobustnessOptions(**options)
