import numpy as np
import pytest
from datasets import Dataset

from peft_mudpt import rules


@pytest.mark.parametrize(
    ("rule", "accepted", "refused"),
    [
        (rules.whole_number(1), [1, 10_000], [0, 10_001, 1.0, True, "1", None]),
        (rules.AT_LEAST_ONE, [1, 10**9, np.int64(2)], [0, -1, 1.0, True, "1", None]),
        (rules.number(0, 2), [0, 2, 0.5], [-0.1, 2.1, float("nan"), True, "1", None]),
        (rules.one_of("add", "replace"), ["add", "replace"], ["Add", "", ["add"], None]),
        (rules.either(rules.whole_number(0), "all", None), [0, "all", None], ["none", -1, ["all"]]),
        (rules.TEXT, ["", "été"], ["\ud800", b"a", None]),
        (rules.TRUE_OR_FALSE, [True, False], [0, "yes", None]),
        (rules.MODULE_NAMES, [["a"], ("a", "b"), {"a"}, []], ["a", [""], [1], None]),
        (rules.TOKEN_IDS_BY_WORDS, [{"a photo": [0, 5]}, {}], [{"a": []}, {"a": [-1]}, {"a": [True]}, {1: [1]}, [1]]),
        (rules.CLASS_NAMES, [["cat"], ["cat", "sea lion"]], [[], "cat", ("cat",), ["cat", " "], ["cat", 1]]),
        (rules.TEMPLATE, ["{}", "a photo of a {}."], ["a photo", "{} or {}", ["{}"], "\ud800 {}", None]),
    ],
)
def test_a_rule_accepts_what_it_says_and_nothing_else(rule, accepted, refused):
    assert [value for value in accepted if not rule.accepts(value)] == []
    assert [value for value in refused if rule.accepts(value)] == []


def test_a_refusal_says_the_name_the_value_and_what_was_expected():
    with pytest.raises(ValueError, match="^--shots=0 is not a whole number from 1 to 64, or 'all'"):
        rules.either(rules.whole_number(1, 64), "all").check(0, "--shots")


def test_a_template_is_refused_under_the_name_that_the_user_gave_it_by():
    with pytest.raises(ValueError, match="^--template='a photo' "):
        rules.check_template("a photo", "--template")


@pytest.mark.parametrize(
    "names", [("cat", "dog"), np.array(["cat", "dog"]), Dataset.from_dict({"name": ["cat", "dog"]})["name"]]
)
def test_class_names_in_an_order_come_back_as_a_list(names):
    found = rules.check_class_names(names)
    assert found == ["cat", "dog"] and {type(name) for name in found} == {str}


NOT_IN_ORDER = [{"cat", "dog"}, frozenset({"cat"}), {"cat": 0, "dog": 1}, {"cat": 0}.keys()]


@pytest.mark.parametrize("names", ["cat", b"cat", [], ["cat", ""], [b"cat"], None, 2, np.array("cat"), *NOT_IN_ORDER])
def test_what_are_no_names_in_the_order_of_the_labels_is_refused(names):
    with pytest.raises(ValueError, match="^class_names=.* non-empty names in the order of the labels"):
        rules.check_class_names(names)
