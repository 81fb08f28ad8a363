"""Class texts as the text tower takes them, whatever the tokenizer's settings and the user's words."""

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, SiglipConfig, SiglipModel

from peft_mudpt import MuDPTClassifier, demo
from peft_mudpt.classifier.texts import split_template, tokenize_classes
from tests.conftest import enlivened
from tests.towers.test_families import LENGTH, TEXT, VISION


NAMES = ["cat", "red star"]


def tokenizer(**settings):
    return AutoTokenizer.from_pretrained(demo.MODEL_PATH, **settings)


def siglip(vocabulary):
    text = TEXT | dict(vocab_size=vocabulary, projection_size=48)
    torch.manual_seed(0)
    return enlivened(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)))


@pytest.mark.parametrize("multiple", [None, LENGTH])
def test_texts_are_padded_on_the_right_by_a_tokenizer_that_pads_on_the_left(multiple):
    expected = tokenize_classes(tokenizer(padding_side="right"), NAMES, "a {}.", multiple)
    tokens = tokenize_classes(tokenizer(padding_side="left"), NAMES, "a {}.", multiple)
    assert tokens.keys() == expected.keys() and all(torch.equal(tokens[name], expected[name]) for name in tokens)


@torch.no_grad()
def test_a_siglip_with_such_a_tokenizer_has_the_same_class_features():
    model = siglip(len(tokenizer()))
    left, right = (MuDPTClassifier(model, NAMES, "a {}.", tokenizer(padding_side=side)) for side in ("left", "right"))
    assert torch.equal(left.class_features(), right.class_features())


@pytest.mark.parametrize("mark", ["<|endoftext|>", "<|startoftext|>"])
@pytest.mark.parametrize(
    ("names", "template"),
    [(["cat", "red{}star"], "a {{}}."), (["cat", "dog"], "a {} {{}}.")],
    ids=["name", "template"],
)
def test_a_text_that_holds_a_mark_of_its_begin_or_end_is_refused(names, template, mark):
    names, template = [name.format(mark) for name in names], template.format(mark)
    with pytest.raises(
        ValueError, match=r"The text 'a .*<\|.*of class [01] holds the token '<\|(end|start)oftext\|>'"
    ):
        MuDPTClassifier(CLIPModel.from_pretrained(demo.MODEL_PATH), names, template, tokenizer())


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
    with pytest.raises(ValueError, match=r"holds \{\} once"):
        split_template(template, tokenizer, 4)


def test_other_braces_in_a_template_stay(tokenizer):
    tokens = tokenize_classes(tokenizer, ["star"], "a {} {0} {x}.")
    assert "{ 0" in tokenizer.decode(tokens["input_ids"][0])


def test_class_texts_keep_their_order(tokenizer):
    tokens = tokenize_classes(tokenizer, ["red star", "blue heart"], "a {}.")
    assert tokenizer.batch_decode(tokens["input_ids"], skip_special_tokens=True) == ["a red star .", "a blue heart ."]
