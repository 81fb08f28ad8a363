"""What the texts of a class are made from, and what is refused."""

import pytest

from peft_mudpt import TEMPLATES
from peft_mudpt.classifier.class_texts import ClassTexts


NAMES = ["cat", "red star"]
DESCRIPTIONS = {"cat": ["a cat has whiskers.", "a soft animal."], "red star": ["a star."]}


def test_the_texts_of_a_class_are_its_templates_and_then_its_descriptions():
    texts = ClassTexts.given(["a {}.", "the {}."], DESCRIPTIONS).of(NAMES)
    assert texts == [
        ["a cat.", "the cat.", "a cat has whiskers.", "a soft animal."],
        ["a red star.", "the red star.", "a star."],
    ]
    assert ClassTexts.given(None, DESCRIPTIONS).of(NAMES[1:]) == [["a star."]]


def test_names_are_compared_in_one_unicode_form():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    texts = ClassTexts.given(None, {decomposed: ["a bar."]})
    texts.check_known([composed])
    assert texts.only([composed]).of([decomposed]) == [["a bar."]]
    with pytest.raises(ValueError, match="twice"):
        ClassTexts.given(None, {composed: ["a bar."], decomposed: ["a place."]})


@pytest.mark.parametrize(
    ("template", "descriptions", "message"),
    [
        (["a {}.", "a photo."], None, r"template\[1\]='a photo.' is not a text that holds {} once"),
        ([], None, r"template=\[\] is not a non-empty list"),
        (3, None, "template=3 is not a text"),
        (None, None, "Give a template"),
        (None, {}, "descriptions={} is not"),
        (None, [["a cat"]], r"descriptions=\[\['a cat'\]\] is not a dict"),
        (None, {**DESCRIPTIONS, "dog": []}, r"descriptions\['dog'\]=\[\] is not a non-empty list"),
        (None, {**DESCRIPTIONS, "dog": "barks"}, r"descriptions\['dog'\]='barks' is not a non-empty list"),
        (None, {**DESCRIPTIONS, "dog": ["barks", 3]}, r"descriptions\['dog'\]=\['barks', 3\]"),
        (None, {**DESCRIPTIONS, "dog": [" "]}, r"descriptions\['dog'\]=\[' '\]"),
        (None, {"": ["a cat"]}, "descriptions={'': "),
    ],
)
def test_what_are_no_texts_is_refused_by_name(template, descriptions, message):
    with pytest.raises(ValueError, match=message):
        ClassTexts.given(template, descriptions)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (ClassTexts(("a {}.",)), "a {}."),
        (ClassTexts(TEMPLATES["imagenet"]), "80 templates ('a bad photo of a {}.', ...)"),
        (ClassTexts((), DESCRIPTIONS), "3 descriptions of 2 classes"),
        (ClassTexts(("a {}.",), DESCRIPTIONS), "'a {}.' and 3 descriptions of 2 classes"),
    ],
)
def test_they_are_described_in_a_few_words(texts, words):
    assert texts.in_words() == words


def test_clips_templates_for_imagenet_are_eighty_different_ones():
    templates = TEMPLATES["imagenet"]
    assert len(set(templates)) == len(templates) == 80
    ClassTexts.given(templates)
