"""The text bank against a loop over single texts."""

import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPModel

from peft_mudpt import demo
from peft_mudpt.classifier.bank import text_bank
from tests.classifier.conftest import adapted
from tests.classifier.test_texts import siglip


TEXTS = [["a red star.", "a photo of a big red star.", "red"], ["blue heart"], ["a green cross!", "cross"]]


@torch.no_grad()
def expected(model, tokenizer, normalize_each, length=None):
    """Encode each text alone, by the model's own method."""
    padding = {} if length is None else dict(padding="max_length", max_length=length)
    means = []
    for texts in TEXTS:
        features = []
        for text in texts:
            ids = tokenizer([text], return_tensors="pt", padding_side="right", **padding).input_ids
            feature = model.get_text_features(ids).pooler_output
            features.append(feature / feature.norm() if normalize_each else feature)
        means.append(sum(features) / len(features))
    return torch.cat(means)


@pytest.mark.parametrize("class_batch_size", [None, 1, 4])
@pytest.mark.parametrize("normalize_each", [True, False])
def test_the_bank_is_the_mean_over_the_texts_of_each_class(tokenizer, normalize_each, class_batch_size):
    clip = CLIPModel.from_pretrained(demo.MODEL_PATH)
    bank = text_bank(clip, tokenizer, TEXTS, normalize_each, class_batch_size)
    assert not bank.requires_grad
    torch.testing.assert_close(bank, expected(clip, tokenizer, normalize_each), atol=1e-5, rtol=1e-5)


def test_a_disabled_adapter_gives_the_bank_of_the_frozen_clip(tokenizer):
    clip, model = CLIPModel.from_pretrained(demo.MODEL_PATH), adapted("coop")
    with model.disable_adapter():
        frozen = text_bank(model, tokenizer, TEXTS)
    torch.testing.assert_close(frozen, expected(clip, tokenizer, True), atol=1e-5, rtol=1e-5)
    assert (text_bank(model, tokenizer, TEXTS) - frozen).abs().max() > 1e-2


def test_a_bank_made_in_inference_mode_can_be_used_in_training(tokenizer):
    with torch.inference_mode():
        bank = text_bank(CLIPModel.from_pretrained(demo.MODEL_PATH), tokenizer, TEXTS)
    weights = torch.ones_like(bank, requires_grad=True)
    (weights * normalize(bank, dim=-1)).sum().backward()
    assert weights.grad.abs().sum() > 0


def test_a_tower_that_pools_at_the_last_position_gets_texts_of_full_length():
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    model = siglip(len(tokenizer))
    length = model.config.text_config.max_position_embeddings
    torch.testing.assert_close(
        text_bank(model, tokenizer, TEXTS), expected(model, tokenizer, True, length), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("texts", [[], [["star"], []], [["star", " "]], ["star"], [["star", 3]], None])
def test_what_are_no_texts_of_classes_is_refused(tokenizer, texts):
    with pytest.raises(ValueError, match="class_texts=.* is not a list with the texts of each class"):
        text_bank(CLIPModel.from_pretrained(demo.MODEL_PATH), tokenizer, texts)


def test_a_text_that_is_too_long_is_refused_by_its_class_and_number(tokenizer):
    texts = [["star"], ["heart", "very " * 100 + "long heart"]]
    with pytest.raises(ValueError, match="text of class 1 .text 2 of 2. has .* positions"):
        text_bank(CLIPModel.from_pretrained(demo.MODEL_PATH), tokenizer, texts)
