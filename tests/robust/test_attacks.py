"""Attacks on pictures."""

from itertools import product

import pytest
import torch
from peft import get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, CLIPModel

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo
from peft_mudpt.robust import PGD, Normalization


NORMALIZATION = Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
CLASSES = ["filled red star", "hollow blue heart", "filled green circle"]
LABELS = torch.tensor([0, 1, 2, 1, 0])
TOKENIZER = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
PRESETS = ["none", "coop", "cocoop", "tcp"]
EPS = {"linf": 8 / 255, "l2": 0.5}
ATTACKED = [*product(["mudpt"], EPS, ["positive", "symmetric", "none"]), *product(PRESETS, EPS, ["positive"])]


def classifier(preset="none"):
    clip = CLIPModel.from_pretrained(demo.MODEL_PATH)
    torch.manual_seed(1)
    if preset != "none":
        clip = get_peft_model(clip, MuDPTConfig.from_preset(preset, init_std=0.5))
    return MuDPTClassifier(clip, CLASSES, "{}.", tokenizer=TOKENIZER)


def pictures(number=5):
    """Many pixels are exactly 0 or 1."""
    return (torch.rand(number, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 0.5).clamp(0, 1)


def losses(model, pixels, labels=LABELS):
    with torch.no_grad():
        return cross_entropy(model.eval()(NORMALIZATION(pixels)).logits, labels, reduction="none")


def distances(attacked, pixels, norm):
    distance = (attacked - pixels).flatten(1)
    return distance.abs().amax(dim=1) if norm == "linf" else distance.norm(dim=1)


@pytest.mark.parametrize("preset, norm, start", ATTACKED)
def test_an_attack_raises_the_loss_and_stays_near_the_picture(preset, norm, start):
    model, pixels = classifier(preset), pictures()
    attack = PGD(EPS[norm], 4, norm, "cross_entropy", start=start)
    attacked = attack(model, NORMALIZATION, pixels, LABELS)
    assert distances(attacked, pixels, norm).max() <= EPS[norm] + 1e-6
    assert 0 <= attacked.min() and attacked.max() <= 1
    assert (losses(model, attacked) > losses(model, pixels)).all()


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("preset", ["mudpt", *PRESETS])
def test_one_step_follows_the_gradient_of_the_loss(preset, norm):
    model, pixels = classifier(preset), pictures()
    moved = PGD(EPS[norm], 1, norm, "cross_entropy", step_size=EPS[norm], start="none")(
        model, NORMALIZATION, pixels, LABELS
    )
    for picture, label, found in zip(pixels, LABELS, moved):  # one by one, through the prompts of this picture
        x = picture[None].clone().requires_grad_()
        cross_entropy(model.eval()(NORMALIZATION(x)).logits, label[None]).backward()
        direction = x.grad.sign() if norm == "linf" else x.grad / x.grad.norm()
        expected = (picture + EPS[norm] * direction[0]).clamp(0, 1)
        assert ((found - expected).abs() > 1e-5).float().mean() < 1e-3


@pytest.mark.parametrize("preset", ["none", "mudpt"])
def test_the_embedding_attack_needs_no_classifier_and_no_labels(preset):
    model, pixels = classifier(preset), pictures()
    attack = PGD(steps=3)
    torch.testing.assert_close(attack(model.model, NORMALIZATION, pixels), attack(model, NORMALIZATION, pixels))


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("objective", ["embedding_kl", "cross_entropy"])
def test_the_same_seed_gives_the_same_bits_and_another_one_others(objective, norm):
    model, pixels = classifier("mudpt"), pictures()
    one, again, other = (
        PGD(EPS[norm], 2, norm, objective, seed=seed)(model, NORMALIZATION, pixels, LABELS) for seed in (1, 1, 2)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize("norm", EPS)
def test_the_size_of_the_batches_does_not_matter(norm):
    model, pixels = classifier("mudpt"), pictures()
    attack = PGD(EPS[norm], 2, norm, restarts=2)
    whole = attack(model, NORMALIZATION, pixels)
    parts = [attack(model, NORMALIZATION, pixels[a:b], positions=range(a, b)) for a, b in ((0, 2), (2, 5))]
    assert ((whole - torch.cat(parts)).abs() > 1e-5).float().mean() < 1e-3


def test_of_several_restarts_the_highest_objective_counts_for_each_picture(monkeypatch):
    model, pixels = classifier(), pictures()
    attack = PGD(steps=1, objective="cross_entropy", restarts=4)
    noise = PGD._noise
    each = []
    for restart in range(4):
        monkeypatch.setattr(PGD, "_noise", lambda self, clean, _, numbers, r=restart: noise(self, clean, r, numbers))
        each.append(PGD(steps=1, objective="cross_entropy")(model, NORMALIZATION, pixels, LABELS))
    monkeypatch.setattr(PGD, "_noise", noise)
    best = torch.stack([losses(model, attacked) for attacked in each]).amax(dim=0)
    torch.testing.assert_close(losses(model, attack(model, NORMALIZATION, pixels, LABELS)), best)
    assert (losses(model, each[0]) < best).any()


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_left_as_it_was(broken):
    model = classifier("mudpt").train()
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    labels = LABELS + 7 if broken else LABELS
    try:
        PGD(steps=1, objective="cross_entropy")(model, NORMALIZATION, pictures(), labels)
    except ValueError:
        assert broken
    assert model.training and model.model.training
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_an_attack_works_where_gradients_are_off(context):
    model, pixels = classifier("mudpt"), pictures()
    attack = PGD(steps=2, objective="cross_entropy")
    with context():
        attacked = attack(model, NORMALIZATION, pixels, LABELS)
    torch.testing.assert_close(attacked, attack(model, NORMALIZATION, pixels, LABELS))


@pytest.mark.parametrize("objective", ["embedding_kl", "cross_entropy"])
def test_an_attack_works_in_bfloat16(objective):
    pixels, attack = pictures(), PGD(steps=4, objective=objective)
    model, whole = classifier("mudpt"), classifier("mudpt").to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attack(model, NORMALIZATION, pixels, LABELS)
    for attacked in (mixed, attack(whole, NORMALIZATION, pixels, LABELS)):
        assert attacked.dtype == torch.float32
        assert distances(attacked, pixels, "linf").max() <= 8 / 255 + 1e-6
        assert losses(model, attacked).sum() > losses(model, pixels).sum()


@pytest.mark.parametrize("objective", ["embedding_kl", "cross_entropy"])
def test_no_pictures_are_returned_as_none(objective):
    attack = PGD(objective=objective)
    assert attack(classifier(), NORMALIZATION, pictures()[:0], LABELS[:0]).shape == (0, 3, 32, 32)


def test_the_given_pixels_are_not_changed():
    pixels = pictures()
    copy = pixels.clone()
    PGD(steps=1)(classifier(), NORMALIZATION, pixels)
    assert torch.equal(pixels, copy)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"eps": 8}, "eps=8 .*8 / 255"),
        ({"eps": -0.1}, "eps=-0.1"),
        ({"eps": float("nan")}, "eps=nan"),
        ({"steps": 0}, "steps=0"),
        ({"restarts": 0}, "restarts=0"),
        ({"norm": "l1"}, "norm='l1'.*linf, l2"),
        ({"objective": "kl"}, "objective='kl'"),
        ({"start": "random"}, "start='random'"),
        ({"seed": -1}, "seed=-1"),
        ({"start": "none"}, "start='none'.*no gradient.*'positive' or 'symmetric'"),
        ({"start": "none", "objective": "cross_entropy", "restarts": 2}, "restarts=2.*another start"),
    ],
    ids=str,
)
def test_arguments_that_make_no_attack_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PGD(**fields)


@pytest.mark.parametrize(
    "pixels, labels, message",
    [
        (NORMALIZATION(pictures()), LABELS, "look normalized.*do_normalize=False"),
        (pictures() * 255, LABELS, "levels from 0 to 255.*divide"),
        (pictures() * float("nan"), LABELS, "between nan and nan"),
        (pictures()[0], LABELS, r"a tensor \(3, 32, 32\)"),
        (pictures()[:, :1], LABELS, r"a tensor \(5, 1, 32, 32\)"),
        (pictures().to(torch.uint8), LABELS, "torch.uint8"),
        ("a.png", LABELS, "pixels is str"),
        (pictures(), None, "needs the labels"),
        (pictures(), LABELS[:2], r"\(2,\).*\(5,\)"),
        (pictures(), LABELS.float(), "torch.float32.*whole numbers"),
        (pictures(), LABELS + 1, "between 1 and 3.*3 classes"),
    ],
    ids=str,
)
def test_pictures_and_labels_that_do_not_fit_are_refused(pixels, labels, message):
    with pytest.raises(ValueError, match=message):
        PGD(steps=1, objective="cross_entropy")(classifier(), NORMALIZATION, pixels, labels)


def test_a_loss_needs_a_classifier():
    with pytest.raises(ValueError, match="needs a classifier.*CLIPModel"):
        PGD(objective="cross_entropy")(classifier().model, NORMALIZATION, pictures(), LABELS)
