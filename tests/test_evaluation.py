"""How many pictures are named rightly."""

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, CLIPModel

from peft_mudpt import demo
from peft_mudpt.classifier import tokenize_classes
from peft_mudpt.fewshot.evaluation import classifier_of, evaluate
from peft_mudpt.fewshot.methods import LinearProbe


NAMES = ["filled red star", "hollow blue heart", "filled green cross"]


@pytest.fixture(scope="module")
def clip():
    return CLIPModel.from_pretrained(demo.MODEL_PATH).eval()


@pytest.fixture(scope="module")
def tokens():
    return tokenize_classes(AutoTokenizer.from_pretrained(demo.MODEL_PATH), NAMES, "a photo of a {}.")


def accuracy_of(predicted, labels, clip, tokens, names=NAMES, batch_size=2):
    """Evaluate a model that answers `predicted`, one class per picture."""
    rows = [{"pixel_values": torch.tensor([p]), "labels": torch.tensor(label)} for p, label in zip(predicted, labels)]
    probe = LinearProbe(clip, 3)
    probe.forward = lambda pixels: type("Output", (), {"logits_per_image": torch.eye(3)[pixels.flatten()]})
    return evaluate(Accelerator(), probe, tokens, DataLoader(rows, batch_size), names)


def test_accuracy_is_over_pictures_and_mean_class_accuracy_over_classes(clip, tokens):
    metrics = accuracy_of([0, 0, 0, 1, 0], [0, 0, 0, 1, 1], clip, tokens)
    assert metrics["accuracy"] == pytest.approx(80) and metrics["mean_class_accuracy"] == pytest.approx(75)
    assert metrics["classes"] == {NAMES[0]: [3, 3], NAMES[1]: [1, 2], NAMES[2]: [0, 0]}


def test_classes_that_share_a_name_are_counted_apart(clip, tokens):
    metrics = accuracy_of([0, 1, 0], [0, 1, 1], clip, tokens, names=["crane", "crane", "cat"])
    assert metrics["classes"] == {"crane [0]": [1, 1], "crane [1]": [1, 2], "cat": [0, 0]}


def test_a_clip_answers_with_its_own_forwards_logits(clip, tokens):
    pixel_values = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = clip(**tokens, pixel_values=pixel_values).logits_per_image
        torch.testing.assert_close(classifier_of(clip, tokens)(pixel_values), expected, atol=1e-4, rtol=1e-5)
