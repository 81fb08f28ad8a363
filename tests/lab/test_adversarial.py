"""How a run learns from attacked pictures."""

import pytest

from peft_mudpt.lab.adversarial import AdversarialOptions, AdversarialTraining, as_eps, choose_adversarial
from peft_mudpt.lab.methods import find_method
from peft_mudpt.robust import PGD


def chosen(method="mudpt", crop=False, processes=1, **options):
    return choose_adversarial(AdversarialOptions(**options), find_method(method), crop, 3, processes)


def test_only_advpt_learns_from_attacked_pictures_by_default():
    assert chosen("mudpt") is None
    assert chosen("advpt") == AdversarialTraining(PGD(8 / 255, 10, seed=3))


def test_the_flags_describe_the_attack():
    options = {"eps": "4/255", "attack_steps": 3, "attack_objective": "cross_entropy"}
    found = chosen(adversarial=True, clean_weight=0.25, refresh_every=2, **options)
    attack = PGD(4 / 255, 3, objective="cross_entropy", seed=3)
    assert found == AdversarialTraining(attack, clean_weight=0.25, refresh_every=2)


@pytest.mark.parametrize("text, eps", [("8/255", 8 / 255), ("0.02", 0.02), ("1e-2", 0.01), ("0", 0.0)])
def test_eps_is_a_number_or_a_fraction(text, eps):
    assert as_eps(text) == pytest.approx(eps)


@pytest.mark.parametrize("text", ["8", "1", "-1/255", "8/0", "1e400", "nan", "inf", "eight", "", "8/255/2"])
def test_another_eps_is_refused(text):
    with pytest.raises(ValueError, match="8/255"):
        as_eps(text)
    with pytest.raises(ValueError, match="--eps"):
        AdversarialOptions(adversarial=True, eps=text)


@pytest.mark.parametrize(
    "method, crop, options, message",
    [
        ("mudpt", False, {"eps": "4/255"}, "--eps 4/255: .*--adversarial"),
        ("mudpt", False, {"clean_weight": 0.5, "attack_steps": 2}, "--attack_steps 2, --clean_weight 0.5"),
        ("zero_shot", False, {"adversarial": True}, "zero_shot has no optimizer steps"),
        ("tip_adapter", False, {"adversarial": True}, "tip_adapter has no optimizer steps"),
        ("mudpt", True, {"adversarial": True, "refresh_every": 2}, "--refresh_every 2.*--augmentation none"),
        ("advpt", True, {"adversarial_bank": "bank"}, "--adversarial_bank bank.*--augmentation none"),
        ("advpt", False, {"adversarial_bank": ""}, "--adversarial_bank '' is no path"),
        ("advpt", False, {"adversarial_bank": "/"}, "--adversarial_bank '/' is no path"),
    ],
    ids=str,
)
def test_options_without_effect_are_refused(method, crop, options, message):
    with pytest.raises(ValueError, match=message):
        chosen(method, crop, **options)


def test_attacks_are_kept_for_several_epochs_by_one_process_only():
    assert chosen(processes=2, adversarial=True).refresh_every == 1
    with pytest.raises(ValueError, match="--refresh_every 2: .*one process"):
        chosen(processes=2, adversarial=True, refresh_every=2)


@pytest.mark.parametrize(
    "options", [{"clean_weight": 1.0}, {"clean_weight": -0.1}, {"attack_steps": 0}, {"refresh_every": 0}]
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"--{next(iter(options))}"):
        AdversarialOptions(adversarial=True, **options)
