"""Reliability and calibration error, against torchmetrics and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from peft_mudpt.calibration.reliability import expected_calibration_error, measure_reliability


@pytest.mark.parametrize("bins", [1, 10, 20])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_error_is_that_of_torchmetrics(drawn, temperature, bins):
    logits, labels = drawn(temperature=temperature)
    probabilities = logits.softmax(dim=-1)
    expected = multiclass_calibration_error(probabilities, labels, num_classes=5, n_bins=bins)
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(expected.item(), abs=1e-6)


def test_the_bins_are_those_of_scikit_learn(drawn):
    logits, labels = drawn()
    found = measure_reliability(logits.softmax(dim=-1), labels)
    confidence, predicted = logits.double().softmax(dim=-1).max(dim=-1)
    accuracy, mean = calibration_curve(predicted == labels, confidence, n_bins=20)
    np.testing.assert_allclose([value for value in found.confidence if value is not None], mean, atol=1e-6)
    np.testing.assert_allclose([value for value in found.accuracy if value is not None], accuracy, atol=1e-6)


def test_a_confidence_on_a_bound_belongs_to_the_bin_below():
    probabilities = torch.tensor([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]])
    assert measure_reliability(probabilities, [0, 0, 0], bins=4).pictures == [0, 1, 1, 1]


def test_bins_without_pictures_have_no_numbers():
    found = measure_reliability(torch.tensor([[0.9, 0.1], [0.95, 0.05]], dtype=torch.float64), [0, 1], bins=2)
    assert found.confidence[0] is found.accuracy[0] is None
    assert (found.confidence[1], found.accuracy[1]) == (pytest.approx(0.925), 0.5)
    assert found.error == pytest.approx(0.425)


def perfectly_calibrated(confidence, repeats=400):
    """The reliability of classifiers with these confidences (N,) that are right as often as they say."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(repeats):
        wrong = torch.rand(len(confidence), generator=generator, dtype=torch.float64) > confidence
        yield measure_reliability(torch.stack([confidence, 1 - confidence], dim=-1), wrong.long())


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_error_by_chance_is_that_of_a_classifier_that_is_right_as_often_as_it_says(drawn, temperature):
    confidence = (drawn(number=300)[0] / temperature).softmax(dim=-1).max(dim=-1).values.double()  # (N,)
    found = [*perfectly_calibrated(confidence)]
    errors = [one.error for one in found]
    assert found[0].error_by_chance == pytest.approx(np.mean(errors), rel=0.1)
    limit = np.mean(errors) + 2 * np.std(errors)
    agreed = np.mean([one.is_beyond_chance == (one.error > limit) for one in found])
    assert agreed > 0.97 and 0 < np.mean([one.is_beyond_chance for one in found]) < 0.06


def test_probabilities_that_are_too_high_are_off_by_more_than_chance(drawn):
    logits, labels = drawn(number=300)
    assert measure_reliability((5 * logits).softmax(dim=-1), labels).is_beyond_chance


@pytest.mark.parametrize("rows", [[[0.5, 0.6]], [[1.2, -0.2]]], ids=["sum", "negative"])
def test_numbers_that_are_no_probabilities_are_refused(rows):
    with pytest.raises(ValueError, match="must add up to 1"):
        measure_reliability(torch.tensor(rows), [0])
