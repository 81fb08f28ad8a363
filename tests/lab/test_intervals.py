"""How precise an accuracy is."""

import pytest
from scipy.stats import binomtest

from peft_mudpt.lab.intervals import accuracy_in_words, sign_test, wilson_interval


@pytest.mark.parametrize("right, seen", [(29, 30), (0, 1), (1, 1), (7, 7), (0, 500), (1_999_999, 2_000_000)])
def test_the_interval_is_that_of_scipy(right, seen):
    wanted = binomtest(right, seen).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, seen) == pytest.approx((100 * wanted.low, 100 * wanted.high), abs=1e-9)


@pytest.mark.parametrize("right, seen", [(0, 0), (2, 1), (-1, 3)])
def test_an_impossible_number_of_right_pictures_is_refused(right, seen):
    with pytest.raises(ValueError, match=f"{right} right of {seen}"):
        wilson_interval(right, seen)


def test_the_words_say_how_imprecise_a_test_of_30_pictures_is():
    metrics = {"classes": {"cat": [14, 15], "dog": [15, 15]}, "mean_class_accuracy": 96.67}
    low, high = (100 * end for end in binomtest(29, 30).proportion_ci(method="wilson"))
    words = accuracy_in_words(metrics)
    assert f"96.7 % of 30 pictures (95 % interval: {low:.1f} to {high:.1f} %)" in words and "balanced 96.7 %" in words


@pytest.mark.parametrize("gained, lost", [(0, 0), (5, 0), (6, 0), (3, 3), (20, 35), (20_000, 20_300)])
def test_the_sign_test_is_that_of_scipy(gained, lost):
    wanted = binomtest(gained, gained + lost).pvalue if gained + lost else 1
    assert sign_test(gained, lost) == pytest.approx(wanted, rel=1e-6)
