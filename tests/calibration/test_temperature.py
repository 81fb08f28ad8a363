"""The temperature, against scikit-learn's and against the one with which labels were drawn."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax
from sklearn import calibration
from sklearn.frozen import FrozenEstimator

from peft_mudpt.calibration.temperature import NoTemperature, fit_temperature, softmax
from tests.calibration.conftest import Given


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_is_the_one_that_scipy_finds(drawn, temperature):
    logits, labels = drawn(temperature=temperature)

    def loss(log_t):
        return -log_softmax(logits.double().numpy() / np.exp(log_t), axis=-1)[np.arange(len(labels)), labels].mean()

    found = minimize_scalar(loss, bounds=(-5, 5), options={"xatol": 1e-10})
    assert fit_temperature(logits, labels) == pytest.approx(np.exp(found.x), rel=1e-6)


@pytest.mark.skipif(
    not hasattr(calibration, "_TemperatureScaling"), reason="scikit-learn scales by temperatures since 1.8"
)
def test_the_probabilities_are_those_of_scikit_learn(drawn):
    logits, labels = drawn(temperature=2.5)
    scaled = calibration.CalibratedClassifierCV(FrozenEstimator(Given()), method="temperature")
    expected = scaled.fit(logits.double().numpy(), labels.numpy()).predict_proba(logits.double().numpy())
    found = softmax(logits, fit_temperature(logits, labels)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_temperature_of_many_pictures_is_that_of_their_labels(drawn):
    assert fit_temperature(*drawn(number=20_000, temperature=3.0)) == pytest.approx(3.0, rel=0.05)


def test_neither_a_shift_nor_the_type_of_the_logits_changes_the_temperature(drawn):
    logits, labels = drawn()
    found = fit_temperature(logits, labels)
    assert fit_temperature(logits.double() + 1000, labels.tolist()) == pytest.approx(found, rel=1e-5)


class TestPicturesThatAreAllClassifiedCorrectly:
    def test_they_are_as_certain_as_one_more_right_answer_in_two_more_pictures(self):
        logits, labels = torch.tensor([[2.0, 1.0, 0.5], [0.0, 3.0, 1.0]]).repeat(20, 1), [0, 1] * 20

        def mean_probability(temperature):
            return np.exp(log_softmax(logits.double().numpy() / temperature, axis=-1)).max(axis=-1).mean()

        expected = brentq(lambda temperature: mean_probability(temperature) - 41 / 42, 0.01, 1)
        assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-6)

    def test_they_never_make_probabilities_less_certain(self):
        assert fit_temperature(torch.tensor([[20.0, 0.0], [0.0, 30.0]]), [0, 1]) == 1

    def test_they_have_no_temperature_where_several_classes_have_the_highest_logit(self):
        with pytest.raises(NoTemperature, match="several classes for so many of these 2 pictures"):
            fit_temperature(torch.tensor([[1.0, 1.0, 0.0], [5.0, 1.0, 0.0]]), [0, 0])

    def test_a_probability_that_only_the_temperature_0_would_give_is_none(self):
        three_alike = torch.tensor([[1.0, 1.0, 1.0, 0.0], *[[5.0, 1.0, 0.0, 0.0]] * 3])  # 5 / 6, rounded up in float32
        with pytest.raises(NoTemperature, match="several classes for so many of these 4 pictures"):
            fit_temperature(three_alike, [0] * 4)


@pytest.mark.parametrize("logits", [[[1.0, 2.0], [3.0, 2.0]], [[1.0, 1.0], [1.0, 2.0]]], ids=["worse", "equal"])
def test_logits_that_tell_no_more_than_chance_have_no_temperature(logits):
    with pytest.raises(NoTemperature, match="no more about their labels than chance"):
        fit_temperature(torch.tensor(logits), [0, 0])


def test_a_classifier_that_is_hardly_ever_wrong_still_has_a_temperature():
    logits = torch.tensor([[30.0, 0.0]] * 50 + [[1e-4, 0.0]])
    labels = [0] * 50 + [1]
    found = fit_temperature(logits, labels)
    at = [(softmax(logits, t)[range(51), labels]).log().sum().item() for t in (0.9 * found, found, 1.1 * found)]
    assert at[1] == max(at)


def test_softmax_keeps_the_order_of_neighboring_numbers():
    logits = torch.tensor([20.0, torch.nextafter(torch.tensor(20.0), torch.tensor(30.0))])
    probabilities = softmax(logits, 40.0)
    assert probabilities[1] > probabilities[0] and probabilities.sum() == pytest.approx(1)
