"""Class texts as the text tower takes them, whatever the tokenizer's settings and the user's words."""

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, SiglipConfig, SiglipModel

from peft_mudpt import MuDPTClassifier, demo
from peft_mudpt.classifier.texts import tokenize_classes
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
