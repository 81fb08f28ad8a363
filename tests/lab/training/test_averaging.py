"""The average of the learned parameters over the epochs of a run."""

import math

import pytest
import torch

from peft_mudpt.lab.training.averaging import Averaging, RunningAverage, epochs_of
from peft_mudpt.lab.training.checkpoints import trainable_tensors
from peft_mudpt.lab.training.objectives import OBJECTIVES, CrossEntropy
from tests.lab.training.test_loop import assert_equal, recipe_of, trained


pytestmark = pytest.mark.usefixtures("fresh_accelerator")
WIDE = Averaging(2, 1.5)


@pytest.mark.parametrize(
    ("steps", "pictures_per_step", "pictures", "ends"),
    [
        (6, 4, 12, [3, 6]),  # two whole epochs
        (5, 4, 12, [3, 5]),  # the run ends within the second one
        (6, 4, 10, [3, 5, 6]),  # an epoch ends within a step
        (3, 8, 4, [1, 1, 2, 2, 3, 3]),  # a step ends two epochs
        (2, 4, 100, [2]),  # the run is shorter than an epoch
    ],
)
def test_an_epoch_ends_when_its_pictures_have_been_seen(steps, pictures_per_step, pictures, ends):
    assert epochs_of(steps, pictures_per_step, pictures) == len(ends)
    weights = WIDE.step_weights(steps, pictures_per_step, pictures)
    heights = [math.exp(-((epoch - 2) ** 2) / (2 * 1.5**2)) for epoch in range(1, len(ends) + 1)]
    expected = dict.fromkeys(ends, 0.0)
    for end, height in zip(ends, heights):
        expected[end] += height / sum(heights)
    assert weights == pytest.approx(expected)


def test_the_weights_add_up_to_one_however_far_the_mean_is_from_the_run():
    weights = Averaging(1e6, 1e-3).epoch_weights(4)
    assert weights.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(("mean", "std"), [(1, 0), (1, -1), (float("nan"), 1), (1, float("inf")), (float("inf"), 1)])
def test_a_gaussian_that_cannot_be_computed_is_refused(mean, std):
    with pytest.raises(ValueError, match=f"mean={mean} and std={std}"):
        Averaging(mean, std)


def test_a_run_ends_with_the_weighted_sum_of_its_epochs(pictures, tmp_path, monkeypatch):
    states = {}

    class Watched(CrossEntropy):
        def after_step(self, classifier, step, steps):
            states[step] = {name: p.detach().clone() for name, p in trainable_tensors(classifier).items()}

    monkeypatch.setitem(OBJECTIVES, "watched", Watched)
    averaging = Averaging(1.5, 0.7)
    ours, _ = trained(pictures, tmp_path, recipe_of(objective="watched", averaging=averaging))
    first, second = averaging.epoch_weights(2).tolist()  # 12 pictures in batches of 4: epochs end at steps 3 and 6
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, first * states[3][name] + second * states[6][name])


@pytest.mark.parametrize("every", [4, 6])
def test_a_resumed_run_ends_with_the_same_average_bit_for_bit(pictures, tmp_path, every):
    recipe = recipe_of(averaging=WIDE)
    whole, _ = trained(pictures, tmp_path, recipe, every=every)
    resumed, _ = trained(pictures, tmp_path, recipe, resume="latest")
    assert_equal(whole, resumed)


def test_parameters_in_half_precision_are_averaged_in_single_precision():
    parameter = torch.zeros(1, dtype=torch.bfloat16)
    average = RunningAverage({"p": parameter}, dict.fromkeys(range(1, 513), 1 / 512))
    for step in range(1, 513):
        parameter.fill_(1.0)
        average.after_step(step)
    assert parameter.item() == 1.0  # a sum in bfloat16 would stop at 0.5
