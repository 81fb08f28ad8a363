"""Training on attacked pictures."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from peft_mudpt.lab.adversarial import AdversarialTraining
from peft_mudpt.lab.data import loading
from peft_mudpt.lab.training.adversarial import Adversarial
from peft_mudpt.lab.training.objectives import CrossEntropy
from peft_mudpt.robust import PGD, AdversarialBank, Normalization
from tests.lab.training.test_features import classifier_of, encode_in_each_step, learned
from tests.lab.training.test_loop import PROCESSOR, recipe_of


pytestmark = pytest.mark.usefixtures("fresh_accelerator")
NORMALIZATION = Normalization.of(PROCESSOR)


def attack(**fields):
    return PGD(steps=2, seed=3, **fields)


def batch_of(size=4, epoch=0):
    pixels = torch.rand(size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    place = {
        "picture": torch.arange(size),
        "index": torch.arange(size) + 100 * epoch,
        "epoch": torch.full((size,), epoch),
    }
    return {"pixel_values": NORMALIZATION(pixels), "labels": torch.arange(size) % 3, **place}


def adversarial(classifier, fields=None, **options):
    return Adversarial(
        CrossEntropy(), AdversarialTraining(attack(**(fields or {})), **options), classifier, NORMALIZATION
    )


@pytest.mark.parametrize("clean_weight", [0, 0.3])
@pytest.mark.parametrize("method", ["mudpt", "cocoop"])
def test_the_loss_weighs_attacked_and_clean_pictures(method, clean_weight):
    classifier, batch = classifier_of(method), batch_of()
    objective = adversarial(classifier, {"objective": "cross_entropy"}, clean_weight=clean_weight)
    pixels = NORMALIZATION.undo(batch["pixel_values"])
    attacked = NORMALIZATION(objective.training.attack(classifier, NORMALIZATION, pixels, batch["labels"]))
    of_attacked, of_clean = (
        cross_entropy(classifier(images).logits, batch["labels"]) for images in (attacked, batch["pixel_values"])
    )
    loss = objective.loss(classifier, batch)
    torch.testing.assert_close(loss, (1 - clean_weight) * of_attacked + clean_weight * of_clean, atol=1e-5, rtol=1e-5)
    assert of_attacked > of_clean


def test_known_features_are_weighed_in_the_same_way():
    classifier = classifier_of("coop")
    attacked, clean = torch.nn.functional.normalize(torch.randn(2, 4, 64), dim=-1)
    labels = torch.arange(4) % 3
    batch = {"image_features": attacked, "clean_image_features": clean, "labels": labels}
    of_attacked, of_clean = (cross_entropy(classifier(image_features=f).logits, labels) for f in (attacked, clean))
    loss = adversarial(classifier, clean_weight=0.3).loss(classifier, batch)
    torch.testing.assert_close(loss, 0.7 * of_attacked + 0.3 * of_clean)


@pytest.mark.parametrize("refresh_every, attacks", [(1, [4, 4, 4, 4]), (2, [4, 4])])
def test_a_picture_is_attacked_once_in_some_epochs(monkeypatch, refresh_every, attacks):
    classifier, sizes, original = classifier_of("mudpt"), [], PGD.__call__
    monkeypatch.setattr(PGD, "__call__", lambda self, *args: sizes.append(len(args[2])) or original(self, *args))
    objective = adversarial(classifier, refresh_every=refresh_every)
    losses = [objective.loss(classifier, batch_of(epoch=epoch)).item() for epoch in range(4)]
    assert sizes == attacks
    assert len(set(losses)) == len(attacks)  # another start for each attack

    other = adversarial(classifier, refresh_every=refresh_every)
    other.load_state_dict(objective.state_dict())
    assert other.loss(classifier, batch_of(epoch=3)).item() == losses[3]


def test_text_prompts_learn_from_the_bank_what_they_learn_from_the_attacked_pictures(pictures, tmp_path, monkeypatch):
    training = AdversarialTraining(attack(), clean_weight=0.25)
    recipe = recipe_of(augment=False, steps=3, adversarial=training, batch_size=len(pictures))  # each picture per step
    opened, read = [], loading.picture
    monkeypatch.setattr(loading, "picture", lambda example: opened.append(example["item"]) or read(example))
    once = learned(pictures, tmp_path, recipe, "coop")
    monkeypatch.undo()
    encode_in_each_step(monkeypatch)
    noise = PGD._noise  # the bank has one start per picture
    monkeypatch.setattr(PGD, "_noise", lambda self, clean, restart, numbers: noise(self, clean, restart, self.places))
    monkeypatch.setattr(PGD, "places", range(len(pictures)), raising=False)
    original = Adversarial._attack

    def in_place(self, batch):
        monkeypatch.setattr(PGD, "places", batch["picture"].tolist())
        return original(self, batch)

    monkeypatch.setattr(Adversarial, "_attack", in_place)
    for name, expected in learned(pictures, tmp_path, recipe, "coop").items():
        torch.testing.assert_close(once[name], expected, atol=1e-4, rtol=1e-4)


def test_a_bank_in_a_file_is_made_once_and_must_belong_to_the_run(pictures, tmp_path, monkeypatch):
    path = tmp_path / "bank.safetensors"
    recipe = recipe_of(augment=False, steps=2, adversarial=AdversarialTraining(attack(), bank=str(path)))
    first = learned(pictures, tmp_path, recipe, "coop")
    assert len(AdversarialBank.load(path)) == len(pictures)
    monkeypatch.setattr(AdversarialBank, "build", None)
    again = learned(pictures, tmp_path, recipe, "coop")
    assert all(torch.equal(first[name], again[name]) for name in first)
    stronger = AdversarialTraining(attack(eps=16 / 255), bank=str(path))
    with pytest.raises(ValueError, match="attack of eps=0.03.*0.06"):
        learned(pictures, tmp_path, recipe_of(augment=False, steps=2, adversarial=stronger), "coop")
    often = AdversarialTraining(attack(), refresh_every=2)
    with pytest.raises(ValueError, match="--refresh_every 2: .*runs once"):
        learned(pictures, tmp_path, recipe_of(augment=False, steps=2, adversarial=often), "coop")
    with pytest.raises(ValueError, match=f"--adversarial_bank {path}.*depends on what is learned"):
        learned(pictures, tmp_path, recipe, "mudpt")
