"""Files of templates and of descriptions, and when two of them hold the same."""

import json
import re

import pytest

from peft_mudpt import TEMPLATES
from peft_mudpt.lab.data.class_texts import (
    identify_descriptions,
    identify_templates,
    read_descriptions,
    read_templates,
)


def test_a_file_of_templates_has_one_per_line(tmp_path):
    (tmp_path / "t.txt").write_text("\ufeffa {}.\r\n\n  the {} in caf\u00e9s\n", encoding="utf-8")
    assert read_templates(str(tmp_path / "t.txt")) == ("a {}.", "the {} in caf\u00e9s")


def test_sets_of_templates_have_the_names_of_data_sets():
    assert read_templates("imagenet") == TEMPLATES["imagenet"]
    assert read_templates("dtd") == ("{} texture.",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a {}.\n\na photo.\n", "Line 3 of --templates .*'a photo.' is not a text that holds {} once"),
        ("{}\na {}\n{}\n", "Line 3 of --templates .* repeats '{}'"),
        ("\n \n", "holds no template"),
    ],
)
def test_a_line_that_is_no_template_is_named(tmp_path, content, message):
    (tmp_path / "t.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_templates(str(tmp_path / "t.txt"))


def test_a_name_of_no_set_and_no_file_is_refused():
    with pytest.raises(ValueError, match="--templates imagnet is neither .* caltech101, .*imagenet"):
        read_templates("imagnet")


def test_a_file_of_descriptions_holds_sentences_by_class(tmp_path):
    (tmp_path / "d.json").write_text(
        '{"cafe\u0301": ["a bar."], "cat": ["furry", "has {} whiskers"]}', encoding="utf-8"
    )
    descriptions = read_descriptions(tmp_path / "d.json")
    assert descriptions == {"caf\u00e9": ["a bar."], "cat": ["furry", "has {} whiskers"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"cat": ["furry"]', "is not JSON: .*It must look like"),
        ("[" * 100_000, "is not JSON"),
        ('["furry"]', "must look like .* no object"),
        ("{}", "={} is not a dict"),
        ('{"cat": ["furry"], "dog": []}', r"\['dog'\]=\[\] is not a non-empty list"),
        ('{"cat": ["furry"], "dog": "barks"}', r"\['dog'\]='barks' is not"),
        ('{"cat": ["furry", 3]}', r"\['cat'\]=\['furry', 3\] is not"),
        ('{"cat": ["\\ud800"]}', r"\['cat'\]=.* is not"),
        ('{"": ["furry"]}', "={'': "),
        ('{"cat": ["furry"], "cat": ["soft"]}', "names 'cat' twice"),
        ('{"caf\u00e9": ["a bar"], "cafe\u0301": ["a place"]}', "names .* twice"),
    ],
    ids=lambda value: value[:20],
)
def test_what_are_no_descriptions_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "d.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"--descriptions {re.escape(str(tmp_path / 'd.json'))}.*{message}"):
        read_descriptions(tmp_path / "d.json")


def test_a_missing_file_of_descriptions_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--descriptions .*gone.json cannot be read"):
        read_descriptions(tmp_path / "gone.json")


def test_templates_are_identified_by_their_content():
    assert identify_templates(None) is None
    assert identify_templates(list(TEMPLATES["imagenet"])) == "imagenet"
    assert identify_templates(("a {}.",)) == "a {}."
    two, reversed_two = identify_templates(["a {}.", "{}"]), identify_templates(["{}", "a {}."])
    assert two.startswith("2 templates, SHA-256 ") and two != reversed_two


def test_descriptions_are_identified_by_their_content():
    first = {"cat": ["furry"], "caf\u00e9": ["a bar", "a place"]}
    second = json.loads('{"cafe\u0301": ["a bar", "a place"], "cat": ["furry"]}')
    assert identify_descriptions(first) == identify_descriptions(second)
    assert identify_descriptions(first).startswith("2 classes, SHA-256 ")
    assert identify_descriptions({**first, "cat": ["soft"]}) != identify_descriptions(first)
    assert identify_descriptions(None) is None
