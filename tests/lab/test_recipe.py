"""How a run is trained: the user's options, and the method's defaults for all others."""

import pytest
import torch

from peft_mudpt.lab.methods import find_method
from peft_mudpt.lab.recipe import choose_recipe
from peft_mudpt.lab.training.anchors import Anchors
from peft_mudpt.lab.training.averaging import Averaging
from peft_mudpt.lab.training.loop import build_schedule
from peft_mudpt.lab.training_options import TrainingOptions


def chosen(method, may_be_cropped=False, processes=1, **fields):
    """The recipe for 100 pictures."""
    options = TrainingOptions(**fields)
    return choose_recipe(options, find_method(method), 100, processes, may_be_cropped, seed=1)


@pytest.mark.parametrize(("steps", "ratio"), [(1, 0.0), (1, 0.9), (10, 0.96), (3, 0.99)])
def test_at_least_one_step_uses_the_peak_learning_rate(steps, ratio):
    recipe = chosen("mudpt", max_train_steps=steps, warmup_ratio=ratio)
    assert recipe.warmup_steps == min(round(steps * ratio), steps - 1)
    schedule = build_schedule(torch.optim.SGD([torch.zeros(1, requires_grad=True)]), recipe)
    for _ in range(steps):
        peak = schedule.get_last_lr()[0]
        schedule.optimizer.step()
        schedule.step()
    assert peak > 1e-5 or ratio == 0.0


@pytest.mark.parametrize(
    ("method", "optimizer", "learning_rate", "weight_decay"),
    [("mudpt", "adamw", 0.001, 0.01), ("maple", "sgd", 0.0035, 5e-4), ("lora", "adamw", 2e-4, 0.01)],
)
def test_without_options_the_recipe_has_the_methods_defaults(method, optimizer, learning_rate, weight_decay):
    recipe = chosen(method)
    assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay) == (optimizer, learning_rate, weight_decay)
    assert (recipe.steps, recipe.warmup_steps, recipe.augment) == (1200, 60, False)


@pytest.mark.parametrize("method", ["mudpt", "mudpt_deep", "mudpt_anchored"])
def test_one_option_gives_mudpt_its_published_optimizer_and_learning_rate(method):
    recipe = chosen(method, optimizer="sgd")
    assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay) == ("sgd", 0.0025, 5e-4)


def test_options_take_precedence_over_the_methods_defaults():
    recipe = chosen("lora", optimizer="sgd", learning_rate=0.1, weight_decay=0.0, max_train_steps=7)
    assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay, recipe.steps) == ("sgd", 0.1, 0.0, 7)


def test_the_warmup_is_linear_unless_the_option_says_constant():
    assert (chosen("mudpt").warmup, chosen("mudpt", warmup="constant").warmup) == ("linear", "constant")


@pytest.mark.parametrize(("processes", "steps"), [(1, 200 * 13), (2, 200 * 7)])
def test_the_number_of_steps_covers_the_epochs_over_all_processes(processes, steps):
    assert chosen("mudpt", processes=processes, num_train_epochs=200).steps == steps


@pytest.mark.parametrize(
    ("augmentation", "may_be_cropped", "crop"),
    [("auto", True, True), ("auto", False, False), ("crop", False, True), ("none", True, False)],
)
def test_pictures_that_may_be_cropped_are_cropped_unless_the_option_says_otherwise(augmentation, may_be_cropped, crop):
    assert chosen("mudpt", may_be_cropped, augmentation=augmentation).augment is crop


@pytest.mark.parametrize(
    ("method", "may_be_cropped", "augmentation"),
    [("coop", False, "auto"), ("coop", True, "none"), ("advpt", True, "crop"), ("tip_adapter", True, "auto")],
)
def test_cached_views_are_refused_where_nothing_is_cropped(method, may_be_cropped, augmentation):
    with pytest.raises(ValueError, match="--cached_views 2"):
        chosen(method, may_be_cropped, augmentation=augmentation, cached_views=2)


@pytest.mark.parametrize(("augmentation", "crop"), [("auto", False), ("crop", True)])
def test_pictures_that_are_attacked_are_cropped_only_if_the_option_says_so(augmentation, crop):
    assert chosen("advpt", True, augmentation=augmentation).augment is crop


def test_a_method_that_is_not_trained_has_no_recipe():
    assert chosen("zero_shot") is None


PROMPTSRC = Anchors("l1", 25, 10, 1)


@pytest.mark.parametrize(
    ("method", "fields", "anchors"),
    [
        ("mudpt", {}, Anchors()),
        ("promptsrc", {}, PROMPTSRC),
        ("mudpt_anchored", {}, PROMPTSRC),
        ("promptsrc", {"image_anchor_weight": 0}, Anchors("l1", 25, 0, 1)),
        ("lora", {"text_anchor": "cosine", "text_anchor_weight": 8}, Anchors("cosine", 8)),
    ],
)
def test_flags_of_anchors_take_precedence_over_those_of_the_method(method, fields, anchors):
    assert chosen(method, **fields).anchors == anchors


@pytest.mark.parametrize(
    ("method", "fields", "averaging"),
    [
        ("mudpt", {}, None),
        ("mudpt", {"averaging_mean": 6, "averaging_std": 10}, Averaging(6, 10)),
        ("promptsrc", {"max_train_steps": 250}, Averaging(15, 1)),  # 20 epochs of 100 pictures, 8 in a step
        ("promptsrc", {"max_train_steps": 250, "averaging_mean": 3}, Averaging(3, 1)),
        ("promptsrc", {"averaging_mean": 0}, None),
    ],
)
def test_the_gaussian_is_given_in_epochs_and_a_methods_default_scales_with_the_run(method, fields, averaging):
    assert chosen(method, **fields).averaging == averaging


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        ("mudpt", {"text_anchor_weight": -1}, "--text_anchor_weight=-1 "),
        ("mudpt", {"text_anchor": "l2", "text_anchor_weight": 1}, "--text_anchor='l2' .*l1, cosine"),
        ("mudpt", {"text_anchor": "cosine"}, "--text_anchor cosine .*--text_anchor_weight"),
        ("linear_probe", {"text_anchor_weight": 25}, "--text_anchor_weight 25.* linear_probe"),
        ("zero_shot", {"logit_anchor_weight": 1}, "--logit_anchor_weight 1.* zero_shot"),
        ("mudpt", {"averaging_mean": 6, "averaging_std": 0}, "--averaging_std=0 "),
        ("mudpt", {"averaging_mean": 6}, "--averaging_mean 6 .*--averaging_std"),
        ("mudpt", {"averaging_std": 1}, "--averaging_std 1 .*--averaging_mean"),
        ("promptsrc", {"averaging_mean": 0, "averaging_std": 1}, "--averaging_std 1 .*--averaging_mean"),
        ("zero_shot", {"averaging_mean": 6, "averaging_std": 1}, "--averaging_mean 6.* zero_shot"),
        ("tip_adapter", {"averaging_std": 1}, "--averaging_std 1.* tip_adapter"),
        ("vpt_head", {"image_anchor_weight": 1}, "--image_anchor_weight 1.* vpt_head .*without a head"),
    ],
)
def test_a_wrong_anchor_or_gaussian_is_refused_by_name(method, fields, message):
    with pytest.raises(ValueError, match=message):
        chosen(method, **fields)
