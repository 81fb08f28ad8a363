"""The sentences that say what a run has reached."""

import pytest
from scipy.stats import binomtest

from peft_mudpt.lab.report.verdict import verdict
from tests.lab.report.made_results import result


def metrics_of_cats(right: int) -> dict:
    """The metrics of 100 pictures of cats, of which the first `right` are recognized."""
    predicted = {f"{i}.png": "cat" if i < right else "dog" for i in range(100)}
    counts = {"cat": [right, 100], "dog": [0, 0]}
    return {"accuracy": right, "mean_class_accuracy": right, "classes": counts, "predictions": {"cat": predicted}}


def run(right: int, before: int, **changes) -> dict:
    return result(metrics={"test": metrics_of_cats(right)}, zero_shot={"test": metrics_of_cats(before)}, **changes)


def test_the_verdict_counts_the_pictures_and_says_how_precise_that_is():
    low, high = (100 * end for end in binomtest(90, 100).proportion_ci(method="wilson"))
    words = verdict(run(90, 50), "test")
    assert words.startswith("Of 100 test pictures, 90 were recognized: 90.0 %, ")
    assert f"or {low:.1f} to {high:.1f} % on all pictures like these (95 % interval)." in words
    assert "Guessing among 2 classes would reach 50.0 %." in words


def test_an_accuracy_that_may_be_guessed_is_said_to_be_so():
    assert "50.0 %, which the interval does not exclude." in verdict(run(55, 50), "test")


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (56, "training has improved that by more than chance explains."),  # 6 pictures more, and none lost: p = 0.03
        (55, "the difference may be chance."),  # 5 more: p = 0.06
        (50, "the difference may be chance."),
        (44, "training has worsened that by more than chance explains."),
    ],
)
def test_training_is_judged_by_the_pictures_on_which_it_changed_the_answer(right, words):
    assert verdict(run(right, 50), "test").endswith(f"the same CLIP recognized 50 (50.0 %); {words}")


def test_nothing_is_judged_if_the_pictures_are_unknown():
    assert verdict(result(), "test").endswith("Before training, the same CLIP recognized 14 (70.0 %).")


def test_a_method_that_is_not_trained_is_compared_with_guessing_only():
    assert "training" not in verdict(run(90, 90, method="zero_shot"), "test")
