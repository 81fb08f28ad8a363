"""Accuracies, confusions and mistakes of each class."""

import pytest
from sklearn.metrics import confusion_matrix as matrix_of_sklearn

from peft_mudpt.lab.report.per_class import class_accuracies, confusion_matrix, confusions, mistakes
from tests.lab.report.made_run import CLASSES, TAKEN_FOR, metrics


def test_the_confusion_matrix_is_that_of_scikit_learn():
    true = [name for name, taken in TAKEN_FOR.items() for _ in taken]
    predicted = [other for taken in TAKEN_FOR.values() for other in taken]
    expected = matrix_of_sklearn(true, predicted, labels=CLASSES)
    assert [*confusion_matrix(metrics()).values()] == expected.tolist()


def test_the_least_accurate_class_stands_first_with_its_zero_shot_accuracy():
    before = {"classes": {"cat": [4, 4], "dog": [0, 3]}}
    found = class_accuracies(metrics(), before, {"cat": 2, "dog": 1})
    assert [(one.name, one.right, one.seen, one.trained_on) for one in found] == [
        ("dog", 1, 3, 1),
        ("cat", 2, 4, 2),
        ("cow", 2, 2, None),
    ]
    assert [one.change for one in found] == [pytest.approx(100 / 3), pytest.approx(-50), None]


def test_a_class_without_test_pictures_has_no_accuracy():
    assert class_accuracies({"classes": {"cat": [0, 0]}}, None, None) == []


def test_the_most_frequent_confusion_stands_first():
    assert confusions(metrics()) == [("dog", "cow", 2, 3), ("cat", "dog", 1, 4), ("cat", "cow", 1, 4)]


def test_the_most_certain_mistake_stands_first():
    found = mistakes(metrics())
    assert [(one.item, one.name, one.taken_for) for one in found] == [
        ("dog/test 2.png", "dog", "cow"),
        ("dog/test 1.png", "dog", "cow"),
        ("cat/test 3.png", "cat", "cow"),
        ("cat/test 2.png", "cat", "dog"),
    ]
    assert found[0].percent["cow"] > 80


def test_mistakes_are_known_without_their_probabilities():
    earlier = {name: value for name, value in metrics().items() if name != "mistakes"}
    assert [one.percent for one in mistakes(earlier)] == [{}] * 4
