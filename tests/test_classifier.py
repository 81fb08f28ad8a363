import pytest
import torch
from transformers import AutoTokenizer

from peft_mudpt import MuDPTConfig, demo
from peft_mudpt.classifier import classify, encode_classes, split_template, tokenize_classes


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo.MODEL_PATH)


@pytest.mark.parametrize(
    ("tokens", "words", "rest"),
    [
        (0, None, "a photo of a {}."),
        (2, "a photo", "of a {}."),
        (4, "a photo of a", "{}."),
        (16, "a photo of a", "{}."),
    ],
)
def test_prompts_take_the_place_of_the_templates_first_words(tokenizer, tokens, words, rest):
    assert split_template("a photo of a {}.", tokenizer, tokens) == (words, rest)


def test_a_word_of_several_tokens_is_not_torn(tokenizer):
    assert split_template("a zebra {}, a pet.", tokenizer, 3) == ("a", "zebra {}, a pet.")


def test_what_stands_after_the_prompts_keeps_its_spaces(tokenizer):
    assert split_template("a photo of  a-{}!", tokenizer, 2) == ("a photo", "of  a-{}!")


def test_a_template_that_begins_with_the_class_has_no_words_to_give(tokenizer):
    assert split_template("{}, a pet.", tokenizer, 4) == (None, "{}, a pet.")


@pytest.mark.parametrize("template", ["a photo.", "{} or {}"])
def test_a_template_without_one_place_for_the_class_is_refused(tokenizer, template):
    with pytest.raises(ValueError, match=r"must hold \{\} once"):
        split_template(template, tokenizer, 4)


@torch.no_grad()
def test_classes_encoded_once_give_the_logits_of_the_whole_model(clip):
    from peft import get_peft_model

    model = get_peft_model(clip, MuDPTConfig(init_std=0.5)).eval()
    tokens = {"input_ids": torch.tensor([[97, 5, 6, 98], [97, 7, 98, 99]])}
    images = torch.randn(3, 3, 16, 16)
    expected = model(**tokens, pixel_values=images).logits_per_image
    features = encode_classes(model, tokens)
    torch.testing.assert_close(classify(model, images, features), expected, atol=1e-6, rtol=1e-5)


def test_other_braces_in_a_template_stay(tokenizer):
    tokens = tokenize_classes(tokenizer, ["star"], "a {} {0} {x}.")
    assert "{ 0" in tokenizer.decode(tokens["input_ids"][0])


def test_class_texts_keep_their_order(tokenizer):
    tokens = tokenize_classes(tokenizer, ["red star", "blue heart"], "a {}.")
    assert tokenizer.batch_decode(tokens["input_ids"], skip_special_tokens=True) == ["a red star .", "a blue heart ."]
