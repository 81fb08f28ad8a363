"""AutoAttack's APGD, computed by ART."""

import dataclasses
from collections import Counter
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from peft_mudpt import MuDPTClassifier, demo
from peft_mudpt.robust import APGD, PGD
from tests.robust.test_attacks import EPS, LABELS, NORMALIZATION, TOKENIZER, classifier, distances, losses, pictures


@pytest.fixture
def art():
    pytest.importorskip("art", reason="adversarial-robustness-toolbox, of the extra [robust], is not installed")


def of_classes(number):
    names = ["filled red star", "hollow blue heart", "filled green circle"][:number]
    return MuDPTClassifier(CLIPModel.from_pretrained(demo.MODEL_PATH), names, "{}.", tokenizer=TOKENIZER)


def predictions(model, pixels):
    with torch.no_grad():
        return model.eval()(NORMALIZATION(pixels)).logits.argmax(dim=-1)


def recognized(model, number=5):
    """Pictures and the classes that the model sees in them."""
    pixels = pictures(number)
    return pixels, predictions(model, pixels)


@pytest.mark.parametrize(
    "preset, loss, norm",
    [("mudpt", "ce", "l2"), ("mudpt", "dlr", "l2"), ("cocoop", "ce", "linf"), ("coop", "dlr", "linf")],
)
def test_an_attack_raises_the_loss_and_stays_near_the_picture(art, preset, loss, norm):
    model = classifier(preset)
    pixels, labels = recognized(model, 2)
    attacked = APGD(EPS[norm], 4, norm, loss)(model, NORMALIZATION, pixels, labels)
    assert attacked.dtype == torch.float32 and attacked.shape == pixels.shape
    assert distances(attacked, pixels, norm).max() <= EPS[norm] + 1e-6
    assert 0 <= attacked.min() and attacked.max() <= 1
    assert (losses(model, attacked, labels) > losses(model, pixels, labels)).all()


def test_it_finds_what_our_own_attack_finds(art):
    model, eps, steps = classifier(), 2 / 255, 6
    pixels, labels = recognized(model, 6)
    own = PGD(eps, steps, objective="cross_entropy", start="symmetric")(model, NORMALIZATION, pixels, labels)
    judged = APGD(eps, steps)(model, NORMALIZATION, pixels, labels)
    right = [(predictions(model, attacked) == labels).sum() for attacked in (own, judged)]
    assert right[1] <= right[0] < 6


def test_a_misclassified_picture_is_returned_as_it_is(art):
    model = classifier()
    pixels, labels = recognized(model, 2)
    attacked = APGD(steps=2)(model, NORMALIZATION, pixels, (labels + torch.tensor([0, 1])) % 3)
    assert not torch.equal(attacked[0], pixels[0]) and torch.equal(attacked[1], pixels[1])


@pytest.mark.parametrize("norm", EPS)
def test_the_same_seed_gives_the_same_bits_and_another_one_others(art, norm):
    model = classifier("mudpt")
    pixels, labels = recognized(model, 2)
    one, again, other = (
        APGD(EPS[norm], 2, norm, seed=seed)(model, NORMALIZATION, pixels, labels) for seed in (2**40, 2**40, 2)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_the_size_of_the_batches_does_not_matter(art):
    model = classifier("mudpt")
    pixels, labels = recognized(model)
    attack = APGD(1 / 255, 2, restarts=2)
    whole = attack(model, NORMALIZATION, pixels, labels)
    parts = [
        attack(model, NORMALIZATION, pixels[a:b], labels[a:b], positions=range(a, b)) for a, b in ((0, 2), (2, 5))
    ]
    assert ((whole - torch.cat(parts)).abs() > 1e-5).float().mean() < 1e-3


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_and_the_random_numbers_are_left_as_they_were(art, broken):
    model, pixels = classifier("mudpt").train(), pictures(1)
    learned = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    try:
        APGD(steps=1)(model, NORMALIZATION, pixels, LABELS[:1] + 7 if broken else LABELS[:1])
    except ValueError:
        assert broken
    assert model.training and model.model.training
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == learned
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(pixels, pictures(1))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_an_attack_works_where_gradients_are_off(art, context):
    model = classifier("mudpt")
    pixels, labels = recognized(model, 1)
    with context():
        attacked = APGD(steps=2)(model, NORMALIZATION, pixels, labels)
    torch.testing.assert_close(attacked, APGD(steps=2)(model, NORMALIZATION, pixels, labels))


def test_an_attack_works_in_bfloat16(art):
    model = classifier("mudpt").to(torch.bfloat16)
    pixels, labels = recognized(model.float(), 2)
    attacked = APGD(steps=4)(model.to(torch.bfloat16), NORMALIZATION, pixels, labels)
    assert attacked.dtype == torch.float32 and distances(attacked, pixels, "linf").max() <= 8 / 255 + 1e-6
    assert losses(model.float(), attacked, labels).sum() > losses(model, pixels, labels).sum()


def test_of_all_pictures_it_tried_the_worst_counts(art, monkeypatch):
    model, tried = of_classes(3), []
    pixels, labels = recognized(model, 1)
    forward = MuDPTClassifier.forward
    monkeypatch.setattr(
        MuDPTClassifier,
        "forward",
        lambda self, pixel_values: tried.append(pixel_values) or forward(self, pixel_values),
    )
    attacked = APGD(0.5 / 255, 4)(model, NORMALIZATION, pixels, labels)
    monkeypatch.undo()
    # ART also tries a picture of its own
    near = [x for x in tried if distances(NORMALIZATION.undo(x), pixels, "linf").max() <= 0.5 / 255 + 1e-6]
    with torch.no_grad():
        logits = model(torch.cat([*near, NORMALIZATION(attacked)])).logits
    best_other = logits.scatter(1, labels.expand(len(logits), 1), -torch.inf).amax(dim=1)
    leads = logits[:, labels.item()] - best_other
    torch.testing.assert_close(leads[-1], leads.min())


def test_an_attack_ends_when_another_class_leads(art, monkeypatch):
    model, number = classifier(), Counter()
    pixels, labels = recognized(model, 2)
    forward = MuDPTClassifier.forward
    monkeypatch.setattr(
        MuDPTClassifier, "forward", lambda self, pixel_values: number.update("1") or forward(self, pixel_values)
    )
    attacked = APGD(steps=100)(model, NORMALIZATION, pixels, labels)
    monkeypatch.undo()
    assert (predictions(model, attacked) != labels).all() and number.total() < 60


def test_a_picture_without_logits_that_are_numbers_is_returned_as_it_is(art, monkeypatch):
    model, pixels = classifier(), pictures(2)
    forward = MuDPTClassifier.forward

    def broken(self, pixel_values):
        output = forward(self, pixel_values)
        return dataclasses.replace(output, logits=output.logits * torch.nan)

    monkeypatch.setattr(MuDPTClassifier, "forward", broken)
    assert torch.equal(APGD(steps=1)(model, NORMALIZATION, pixels, LABELS[:2]), pixels)


def test_at_a_distance_of_0_the_pictures_are_returned(art):
    pixels = pictures(1)
    assert torch.equal(APGD(eps=0)(classifier(), NORMALIZATION, pixels, LABELS[:1]), pixels)


def test_the_arguments_are_plain_values(art):
    expected = {"eps": 0.5, "steps": 3, "norm": "l2", "loss": "dlr", "restarts": 2, "seed": 1}
    assert APGD(0.5, 3, "l2", "dlr", 2, 1).as_dict() == expected


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"eps": 8}, "eps=8 .*8 / 255"),
        ({"eps": -0.1}, "eps=-0.1"),
        ({"steps": 0}, "steps=0"),
        ({"restarts": 0}, "restarts=0"),
        ({"norm": "linfinity"}, "norm='linfinity'.*linf, l2"),
        ({"loss": "cross_entropy"}, "loss='cross_entropy'.*ce, dlr"),
        ({"seed": -1}, "seed=-1"),
    ],
    ids=str,
)
def test_arguments_that_make_no_attack_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        APGD(**fields)


@pytest.mark.parametrize(
    "pixels, labels, message",
    [
        (NORMALIZATION(pictures()), LABELS, "look normalized"),
        (pictures(), None, "APGD needs the labels"),
        (pictures(), LABELS + 1, "between 1 and 3.*3 classes"),
    ],
    ids=str,
)
def test_pictures_and_labels_that_do_not_fit_are_refused(art, pixels, labels, message):
    with pytest.raises(ValueError, match=message):
        APGD(steps=1)(classifier(), NORMALIZATION, pixels, labels)


@pytest.mark.parametrize("loss, classes", [("dlr", 2), ("ce", 1)])
def test_too_few_classes_for_the_loss_are_refused(art, loss, classes):
    with pytest.raises(ValueError, match=f"loss='{loss}' needs at least {classes + 1} classes, but found {classes}"):
        APGD(steps=1, loss=loss)(of_classes(classes), NORMALIZATION, pictures(1), LABELS[:1])


def test_two_classes_are_enough_for_the_cross_entropy(art):
    model = of_classes(2)
    pixels, labels = recognized(model, 1)
    attacked = APGD(steps=2)(model, NORMALIZATION, pixels, labels)
    assert losses(model, attacked, labels) > losses(model, pixels, labels)


def test_a_plain_clip_is_refused(art):
    with pytest.raises(ValueError, match="APGD needs a classifier.*CLIPModel"):
        APGD()(classifier().model, NORMALIZATION, pictures(), LABELS)


def test_the_missing_library_is_named(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("peft_mudpt.robust.apgd.version", version)
    with pytest.raises(ImportError, match=r"adversarial-robustness-toolbox.*peft_mudpt\[robust\]"):
        APGD(steps=1)
