"""The published attack and the prompts that are learned from its bank (AdvPT; tests/golden/README.md)."""

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch.nn.functional import cross_entropy, normalize

from peft_mudpt import convert_checkpoint
from peft_mudpt.robust import PGD, Normalization
from tests.test_golden import GOLDEN, assert_near, backbone, read


__all__ = ["backbone"]  # a fixture

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
EPS, STEPS = 8 / 255, 10


@pytest.fixture(scope="module")
def recorded():
    return read(GOLDEN / "advpt.safetensors")[0]


@pytest.fixture
def attacked(backbone, recorded, monkeypatch):
    """Attack the recorded pixels from this start, by default the recorded one."""

    def by(attack, start=None):
        start = recorded["adv/trajectory"][0] if start is None else start
        monkeypatch.setattr(PGD, "_noise", lambda *_: start - recorded["pixels"])
        return attack(backbone, Normalization(MEAN, STD), recorded["pixels"])

    return by


def share_of_others(pixels, expected):
    return ((pixels - expected).abs() > 1e-5).float().mean().item()


def test_the_attack_ends_at_the_published_pixels(attacked, recorded):
    assert share_of_others(attacked(PGD()), recorded["adv/pixels"]) <= 1e-3


@pytest.mark.parametrize("step", range(STEPS))
def test_each_step_from_the_published_pixels_is_the_published_one(attacked, recorded, step):
    trajectory = recorded["adv/trajectory"]
    moved = attacked(PGD(steps=1, step_size=1.25 * EPS / STEPS), trajectory[step])
    assert share_of_others(moved, trajectory[step + 1]) <= 1e-3


@pytest.mark.parametrize("fields", [{"step_size": EPS / 4}, {"steps": 9}, {"norm": "l2"}, {"eps": 16 / 255}], ids=str)
def test_another_attack_ends_elsewhere(attacked, recorded, fields):
    assert share_of_others(attacked(PGD(**fields)), recorded["adv/pixels"]) > 0.05


def test_the_embeddings_of_the_published_pixels_are_the_published_bank(backbone, recorded):
    values = Normalization(MEAN, STD)(recorded["adv/pixels"])
    assert_near(backbone.get_image_features(values).pooler_output.detach(), recorded["adv/embeddings"], 5e-5)


def test_prompts_learn_from_the_bank_as_published(backbone, recorded):
    config, weights = convert_checkpoint({"prompt_learner.ctx": recorded["param/prompt_learner.ctx"]}, "coop")
    model = get_peft_model(backbone, config)
    set_peft_model_state_dict(model, weights)
    ids, bank, labels = recorded["input_ids"], normalize(recorded["adv/embeddings"], dim=-1), recorded["labels"]
    ids = torch.cat([ids[:, :1], ids[:, 33:]], dim=1)  # without the placeholders of the prompts

    def logits(features):
        classes = normalize(model.get_text_features(ids).pooler_output, dim=-1)
        return model.logit_scale.exp() * features @ classes.t()

    assert_near(logits(bank).detach(), recorded["logits"], 5e-5)
    optimizer = torch.optim.SGD(
        (p for p in model.parameters() if p.requires_grad), lr=0.05, momentum=0.9, weight_decay=5e-4
    )
    losses = []
    for _ in recorded["train/losses"]:
        loss = cross_entropy(logits(bank), labels)
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_near(torch.stack(losses), recorded["train/losses"], 1e-5)
    final = convert_checkpoint({"prompt_learner.ctx": recorded["final/prompt_learner.ctx"]}, "coop")[1]
    for name, value in get_peft_model_state_dict(model).items():
        assert_near(value, final[name], 5e-6)
    assert_near(logits(bank).detach(), recorded["final_logits"], 5e-5)
    clean = normalize(recorded["clean_embeddings"], dim=-1)
    assert_near(logits(clean).detach(), recorded["final_clean_logits"], 5e-5)
    model.unload()
