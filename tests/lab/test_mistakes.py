"""What a classifier thought of the pictures that it got wrong."""

from math import exp

import pytest
import torch

from peft_mudpt.lab.mistakes import CLASSES_KEPT, mistakes_of


NAMES = ["cat", "dog", "cow", "hen", "pig"]
ITEMS = ["a.png", "b.png", "c.png"]


def percent(*logits) -> list[float]:
    total = sum(map(exp, logits))
    return [100 * exp(logit) / total for logit in logits]


def test_the_most_probable_classes_and_the_true_one_are_kept_with_their_probabilities():
    logits = [0.0, 3.0, 2.0, 1.0, -1.0]
    found = mistakes_of(torch.tensor([logits]), [4], NAMES, ITEMS[:1])["pig"]["a.png"]
    assert list(found) == ["dog", "cow", "hen", "pig"] and len(found) == CLASSES_KEPT + 1
    expected = dict(zip(NAMES, percent(*logits)))
    assert found == {name: pytest.approx(expected[name], abs=0.005) for name in found}


def test_probabilities_are_those_at_the_temperature():
    logits = [0.0, 3.0, 2.0, 1.0, -1.0]
    found = mistakes_of(torch.tensor([logits]), [4], NAMES, ITEMS[:1], 2.0)["pig"]["a.png"]
    expected = dict(zip(NAMES, percent(*(logit / 2 for logit in logits))))
    assert found == {name: pytest.approx(expected[name], abs=0.005) for name in found}


def test_a_true_class_among_the_most_probable_ones_is_kept_once():
    found = mistakes_of(torch.tensor([[0.0, 3.0, 2.0, 1.0, -1.0]]), [2], NAMES, ITEMS[:1])
    assert list(found["cow"]["a.png"]) == ["dog", "cow", "hen"]


def test_pictures_that_are_classified_correctly_are_left_out():
    logits = torch.tensor([[5.0, 1, 0, 0, 0], [0, 5, 1, 0, 0], [5, 0, 0, 0, 0]])
    found = mistakes_of(logits, [0, 2, 1], NAMES, ITEMS)
    assert {name: list(items) for name, items in found.items()} == {"cow": ["b.png"], "dog": ["c.png"]}
    assert mistakes_of(logits[:1], [0], NAMES, ITEMS[:1]) == {}
