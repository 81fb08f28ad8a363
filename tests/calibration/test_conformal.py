"""Sets of classes, against MAPIE, and how often they hold the label."""

import numpy as np
import pytest
import torch
from mapie.classification import SplitConformalClassifier

from peft_mudpt.calibration.calibration import Calibration
from peft_mudpt.calibration.conformal import ConformalSets, class_scores, least_pictures
from tests.calibration.conftest import Given


def by_mapie(logits, labels, new, coverage):
    """The sets of MAPIE, from probabilities."""
    held_out, others = (part.double().softmax(dim=-1).numpy() for part in (logits, new))
    sets = SplitConformalClassifier(Given(), coverage, "lac").conformalize(held_out, labels.numpy())
    return torch.from_numpy(sets.predict_set(others)[1][:, :, 0])


def held(sets, labels):
    """The share of the sets that hold the label."""
    return sets[torch.arange(len(labels)), labels].double().mean().item()


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_the_sets_are_those_of_mapie(drawn, coverage):
    (logits, labels), (new, _) = drawn(number=99), drawn(seed=1)
    assert torch.equal(
        ConformalSets.fit(scores_of(logits, labels), coverage)(new), by_mapie(logits, labels, new, coverage)
    )


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization dataset has less labels")
def test_the_sets_of_one_class_per_group_are_those_of_mapie_for_its_pictures(drawn):
    (logits, labels), (new, _) = drawn(number=300), drawn(seed=1)
    found = ConformalSets.fit(scores_of(logits, labels), 0.9, per_class=True)
    assert all(found.own)
    for label in range(5):
        alone = labels == label
        expected = by_mapie(logits[alone], labels[alone], new, 0.9)
        assert torch.equal(found(new)[:, label], expected[:, label])


def scores_of(logits, labels):
    found = class_scores(logits)
    return [found[labels == label, label].tolist() for label in range(logits.shape[1])]


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_the_sets_hold_the_label_as_often_as_stated_on_average_over_many_draws(drawn, coverage):
    n, repeats = 39, 300
    logits, labels = drawn(number=(n + 20) * repeats, temperature=3.0)
    found = []
    for part in range(repeats):
        start = (n + 20) * part
        middle, end = start + n, start + n + 20
        sets = ConformalSets.fit(scores_of(logits[start:middle], labels[start:middle]), coverage)
        found.append(held(sets(logits[middle:end]), labels[middle:end]))
    # the coverage is between the stated one and 1 / (n + 1) above it
    assert coverage - 0.01 < np.mean(found) < coverage + 1 / (n + 1) + 0.01


def test_thresholds_per_class_hold_for_each_class_where_one_threshold_does_not(drawn):
    logits, labels = drawn(number=40_000, classes=3)
    logits[labels == 2] -= torch.tensor([0.0, 0.0, 2.0])  # the third class is recognized less often
    half = len(labels) // 2
    scores, new, truth = scores_of(logits[:half], labels[:half]), logits[half:], labels[half:]

    def of_third(per_class):
        return held(ConformalSets.fit(scores, 0.9, per_class)(new)[truth == 2], truth[truth == 2])

    assert of_third(per_class=False) < 0.8 < 0.88 < of_third(per_class=True) < 0.92


def test_classes_with_too_few_pictures_share_a_threshold():
    plenty, few = [float(i) for i in range(9)], [[10.0, 11.0, 12.0]] * 3
    sets = ConformalSets.fit([plenty, *few], 0.9, per_class=True)
    assert sets.own == (True, False, False, False) and sets.thresholds.tolist() == [0.0, 10.0, 10.0, 10.0]


def test_classes_that_share_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="needs 9 held-out pictures, but the classes with fewer \\(1\\) have 2"):
        ConformalSets.fit([[0.0] * 9, [1.0, 2.0]], 0.9, per_class=True)


def test_per_class_without_a_class_that_has_enough_pictures_is_refused():
    with pytest.raises(ValueError, match="needs 9 held-out pictures of a class, but no class has more than 8"):
        ConformalSets.fit([[0.0] * 8] * 4, 0.9, per_class=True)


def test_too_few_pictures_for_the_coverage_are_refused():
    with pytest.raises(ValueError, match="0.95 needs 19 held-out pictures, but all classes have 18"):
        ConformalSets.fit([[0.0] * 9] * 2, 0.95)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90, "0.9", None])
def test_a_coverage_out_of_range_is_refused(coverage):
    with pytest.raises(ValueError, match="coverage=.* is not a number above 0 and below 1"):
        ConformalSets.fit([[0.0] * 99] * 2, coverage)


def test_the_least_number_of_pictures_is_the_smallest_that_has_a_threshold():
    for coverage in [percent / 100 for percent in range(1, 100)] + [0.999, 0.123456]:
        enough = next(n for n in range(1, 2000) if np.ceil(round((n + 1) * coverage, 9)) <= n)
        assert least_pictures(coverage) == enough


def test_scores_are_log_odds_also_where_a_probability_rounds_to_one():
    logits = torch.tensor([[60.0, 10.0, 0.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    p = logits.softmax(dim=-1)
    assert p[0, 0] == 1
    torch.testing.assert_close(class_scores(logits)[1], torch.logit(p[1]))
    assert class_scores(logits)[0, 0] == pytest.approx(50, abs=1e-4)


def test_a_calibration_keeps_the_scores_of_each_class_rounded_down(drawn):
    logits, labels = drawn(number=50)
    expected = scores_of(logits, labels)
    for found, exact in zip(Calibration.fit(logits, labels).scores, expected, strict=True):
        assert all(0 <= e - f < 0.001 for f, e in zip(found, sorted(exact), strict=True))


def test_a_calibration_without_a_temperature_has_sets(drawn):
    logits, labels = torch.eye(3).repeat(10, 1) * 5, torch.arange(3).repeat(10)
    calibration = Calibration.fit(-logits, labels)  # worse than chance
    assert calibration.temperature is None and calibration.pictures == 30
    assert calibration.sets(0.9)(-logits)[range(30), labels].all()
