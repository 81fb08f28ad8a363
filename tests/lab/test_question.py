"""What may be asked about pictures, and what is answered."""

import pytest
import torch

from peft_mudpt import Calibration
from peft_mudpt.calibration.conformal import ConformalSets
from peft_mudpt.classifier.prediction import PictureClassifier
from peft_mudpt.lab.question import Question


LOGITS = torch.tensor([[4.0, 2.0, 0.0], [0.0, 1.0, 0.5]])


@pytest.fixture
def classifier():
    """A classifier that was calibrated on thirty pictures."""
    made = PictureClassifier()
    made.class_names = ["cat", "dog", "cow"]
    made.calibration = Calibration(2.0, [[1.0] * 10, [-1.0] * 10, [3.0] * 10])
    return made


def test_without_more_words_the_best_classes_are_answered(classifier):
    classifier.calibration = None
    first, second = Question(2).answers(classifier)(LOGITS)
    assert [name for name, _ in first.best] == ["cat", "dog"] and [name for name, _ in second.best] == ["dog", "cow"]
    assert first.best[0][1] == pytest.approx(LOGITS[0].softmax(dim=-1)[0].item())
    assert first.is_confident is first.classes is None


def test_a_prediction_is_confident_if_its_calibrated_probability_is_high_enough(classifier):
    calibrated = (LOGITS / 2).softmax(dim=-1).max(dim=-1).values
    for limit, expected in ((0.3, [True, True]), (0.5, [True, False]), (0.9, [False, False])):
        answers = list(Question(1, min_confidence=limit).answers(classifier)(LOGITS))
        assert [answer.is_confident for answer in answers] == expected
        assert [answer.best[0][1] for answer in answers] == pytest.approx(calibrated.tolist())


@pytest.mark.parametrize("calibrated, temperature", [(None, 2), (True, 2), (False, 1)])
def test_probabilities_are_calibrated_unless_the_user_says_otherwise(classifier, calibrated, temperature):
    (answer, _) = Question(1, calibrated).answers(classifier)(LOGITS)
    probability = (LOGITS[0] / temperature).softmax(dim=-1)[0].item()
    assert answer.best[0][1] == pytest.approx(probability) and answer.classes is None


@pytest.mark.parametrize("per_class", [False, True])
def test_the_classes_of_a_set_are_those_above_their_thresholds(classifier, per_class):
    inside = classifier.calibration.sets(0.9, per_class)(LOGITS)
    for answer, mask in zip(Question(coverage=0.9, per_class=per_class).answers(classifier)(LOGITS), inside):
        assert set(answer.classes) == {name for name, is_in in zip(classifier.class_names, mask) if is_in}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"k": 0}, "--top 0 must be at least 1"),
        ({"min_confidence": 90.0}, "--min_confidence=90.0 is not a number from 0 to 1"),
        ({"coverage": 1.0}, "--coverage=1.0 is not a number above 0 and below 1"),
        ({"per_class": True}, "--per_class needs --coverage"),
        ({"min_confidence": 0.5, "calibrated": False}, "--min_confidence .* Leave out --no_calibrated"),
    ],
)
def test_options_out_of_range_are_refused_by_their_flags(options, message):
    with pytest.raises(ValueError, match=message):
        Question(**options)


@pytest.mark.parametrize(
    "options, flags",
    [
        ({"calibrated": True}, ["--calibrated"]),
        ({"min_confidence": 0.0, "coverage": 0.9}, ["--min_confidence", "--coverage"]),
    ],
)
def test_a_classifier_that_is_not_calibrated_cannot_answer(classifier, options, flags):
    classifier.calibration = None
    assert Question(**options).flags_of_calibration == flags and Question().flags_of_calibration == []
    with pytest.raises(ValueError, match="no calibration"):
        Question(**options).check(classifier)
    Question().check(classifier)


def test_a_coverage_that_needs_more_pictures_is_refused(classifier):
    with pytest.raises(ValueError, match="coverage=0.99 needs 99 held-out pictures"):
        Question(coverage=0.99).check(classifier)


def test_sets_are_fitted_once_for_all_batches(classifier, monkeypatch):
    fitted = []
    fit = ConformalSets.fit
    monkeypatch.setattr(ConformalSets, "fit", lambda *given: fitted.append(given) or fit(*given))
    answers = Question(coverage=0.9).answers(classifier)
    assert [len(list(answers(LOGITS))) for _ in range(3)] == [len(LOGITS)] * 3 and len(fitted) == 1
