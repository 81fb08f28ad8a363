"""Rules that check values: fields of `MuDPTConfig`, class names and their texts, such as "a photo of a {}."."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Integral
from reprlib import repr as short_repr
from typing import Any


# Upper bound for numbers of tokens, layers and channels: anything larger is a typo.
LARGEST_COUNT = 10_000
# Prompts with a larger standard deviation may overflow half precision (65,504) before they are trained.
LARGEST_STD = 10_000


@dataclass(frozen=True)
class Rule:
    """
    A condition that a value must meet.

    Args:
        expected: the condition in words, such as "a whole number from 1 to 10,000".
        accepts: returns True if a value, which may have any type, meets the condition.
    """

    expected: str
    accepts: Callable[[Any], bool]

    def check(self, value: Any, name: str) -> None:
        """
        Refuse a value that breaks the rule.

        Args:
            value: the value that was given.
            name: the name of the value in the message, such as a field of the config or a command-line flag.

        Raises:
            ValueError: if the value breaks the rule. The message gives the name, the value and the expectation.
        """
        if not self.accepts(value):
            raise ValueError(f"{name}={short_repr(value)} is not {self.expected}.")


def is_text(value: Any) -> bool:
    """True if the value is a string without surrogates (halves of characters), which no tokenizer accepts."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_number(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)  # for Python, True is an int


def _is_name(value: Any) -> bool:
    return is_text(value) and bool(value.strip())


def _are_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_number(i, int) and i >= 0 for i in value)


def whole_number(least: int, most: int = LARGEST_COUNT, remark: str = "") -> Rule:
    """Rule: an int from `least` to `most`, both included. Error messages add `remark`, a hint for the user."""
    expected = f"a whole number from {least} to {most:,}" + (f" ({remark})" if remark else "")
    return Rule(expected, lambda value: _is_number(value, int) and least <= value <= most)


def number(least: float, most: float) -> Rule:
    """Rule: an int or a float from `least` to `most`, both included."""
    expected = f"a number from {least:,} to {most:,}"
    return Rule(expected, lambda value: _is_number(value, (int, float)) and least <= value <= most)


def one_of(*choices: str) -> Rule:
    """Rule: one of the strings `choices`."""
    return Rule(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices)


def either(rule: Rule, *values: str | None) -> Rule:
    """Rule: a value that `rule` accepts, or one of `values`."""
    *others, last = map(repr, values)
    expected = ", ".join([rule.expected, *others, f"or {last}"])
    return Rule(expected, lambda value: rule.accepts(value) or (isinstance(value, str | None) and value in values))


def record(**parts: Rule) -> Rule:
    """Rule: a dict that has exactly these keys, each with a value that its own rule accepts."""
    expected = "a dict of " + ", ".join(f"{name} ({rule.expected})" for name, rule in parts.items())

    def accepts(value: Any) -> bool:
        return (
            isinstance(value, dict) and value.keys() == parts.keys() and all(parts[k].accepts(value[k]) for k in parts)
        )

    return Rule(expected, accepts)


AT_LEAST_ONE = Rule("a whole number of at least 1", lambda value: _is_number(value, Integral) and value >= 1)
NOT_NEGATIVE = Rule("a whole number of at least 0", lambda value: _is_number(value, Integral) and value >= 0)
PROBABILITY = number(0, 1)
SEED = whole_number(0, 2**63 - 1)  # what torch and NumPy both take
TEXT = Rule("a text", is_text)
TRUE_OR_FALSE = Rule("True or False", lambda value: isinstance(value, bool))
MODULE_NAMES = Rule(
    "a list of module names",
    lambda value: isinstance(value, (list, tuple, set)) and all(isinstance(name, str) and name for name in value),
)
TOKEN_IDS_BY_WORDS = Rule(
    "a dict of token ids by words (filled in from text_prompt_init_text)",
    lambda value: (
        isinstance(value, dict) and all(isinstance(words, str) and _are_token_ids(ids) for words, ids in value.items())
    ),
)
NAMES = Rule(
    "a list of non-empty names",
    lambda value: isinstance(value, list) and bool(value) and all(map(_is_name, value)),
)
CLASS_NAMES = Rule(f"{NAMES.expected} in the order of the labels", NAMES.accepts)
NUMBERS_OF_CLASSES = Rule(
    "a list with a list of numbers for each class",
    lambda value: (
        isinstance(value, list)
        and all(isinstance(row, list) and all(_is_number(each, (int, float)) for each in row) for row in value)
    ),
)
TEMPLATE = Rule(
    "a text that holds {} once, where the class name goes, such as 'a photo of a {}.'",
    lambda value: is_text(value) and value.count("{}") == 1,
)
TEMPLATES = Rule(
    "a non-empty list of texts that hold {} once, where the class name goes, such as ['a photo of a {}.']",
    lambda value: isinstance(value, list) and bool(value) and all(map(TEMPLATE.accepts, value)),
)
SENTENCES = Rule(
    "a non-empty list of non-empty texts",
    lambda value: isinstance(value, (list, tuple)) and bool(value) and all(map(_is_name, value)),
)
CLASS_TEXTS = Rule(
    "a list with the texts of each class, each a non-empty list of non-empty texts",
    lambda value: isinstance(value, (list, tuple)) and bool(value) and all(map(SENTENCES.accepts, value)),
)
DESCRIPTIONS = Rule(
    "a dict that holds a non-empty list of non-empty texts for each class name",
    lambda value: (
        isinstance(value, Mapping)
        and bool(value)
        and all(map(_is_name, value))
        and all(map(SENTENCES.accepts, value.values()))
    ),
)


def check_template(template: Any, name: str = "template") -> None:
    """Raise a ValueError unless the template holds `{}` (the class name) exactly once; see [`Rule.check`]."""
    TEMPLATE.check(template, name)


def check_descriptions(descriptions: Mapping[str, Sequence[str]], name: str = "descriptions") -> None:
    """Raise a ValueError unless each class name has a list of texts; the message names the class that is wrong."""
    if isinstance(descriptions, Mapping):
        for class_name, sentences in descriptions.items():
            SENTENCES.check(sentences, f"{name}[{class_name!r}]")
    DESCRIPTIONS.check(descriptions, name)


def normalized(name: str) -> str:
    """
    Convert a name to Unicode's form NFC, because a Mac writes "é" as two characters and others write one.

    Args:
        name: any text.

    Returns:
        The text in NFC.
    """
    return unicodedata.normalize("NFC", name)


def check_templates(templates: Sequence[str], name: str = "template") -> None:
    """Raise a ValueError unless each template holds `{}` exactly once; the message has the position of a wrong one."""
    for position, template in enumerate(templates):
        check_template(template, f"{name}[{position}]")
    TEMPLATES.check(list(templates), name)


def check_class_names(class_names: Iterable[str], name: str = "class_names") -> list[str]:
    """
    Return the names as a list.

    Args:
        class_names: names of the classes in the order of the labels: a list, a tuple, an array or a column.
        name: the name of the value in the message.

    Raises:
        ValueError: if there are no names, if one is blank, or if they have no order of their own, as in a set or the
            keys of a dict.
    """
    unordered = isinstance(class_names, (str, bytes, Set, Mapping)) or not isinstance(class_names, Iterable)
    try:
        names = class_names if unordered else list(class_names)
    except TypeError:  # an array of no axis only looks iterable
        names = class_names
    CLASS_NAMES.check(names, name)
    return list(map(str, names))  # of an array, elements are strings of NumPy's own type
