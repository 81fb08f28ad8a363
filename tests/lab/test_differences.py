"""How two runs differ, in words."""

import pytest

from peft_mudpt.lab.differences import differences
from peft_mudpt.lab.method import DETECTION
from tests.lab.test_identity import asked


BEFORE = {"a/0.png": "11 a", "a/1.png": "22 a", "b/0.png": "33 b"}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({**BEFORE, "b/1.png": "44 b"}, "training pictures: 1 added (b/1.png)"),
        ({"a/0.png": "11 a", "b/0.png": "33 b"}, "training pictures: 1 removed (a/1.png)"),
        ({**BEFORE, "a/1.png": "44 a"}, "training pictures: 1 replaced (a/1.png)"),
        ({**BEFORE, "a/1.png": "22 b"}, "training pictures: 1 labeled differently (a/1.png)"),
        ({**BEFORE, **{f"b/{i}.png": "5 b" for i in range(1, 5)}}, "4 added (b/1.png, b/2.png, b/3.png, ...)"),
    ],
)
def test_pictures_that_changed_make_another_run_and_are_named(now, said):
    there, here = ({**asked(), "pictures": {"training": found, "test": BEFORE}} for found in (BEFORE, now))
    assert differences(there, here).endswith(said) and differences(there, there) == ""


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({**BEFORE, "c/0.png": "44 red zither"}, "1 class added: red zither"),
        ({"a/0.png": "11 a", "a/1.png": "22 a"}, "1 class removed: b"),
        ({"c/0.png": "44 c", "d/0.png": "55 d"}, "2 classes added: c, d; 2 classes removed: a, b"),
        (
            {"a/1.png": "22 a", "a/2.png": "66 a", "b/0.png": "33 b", "c/0.png": "44 c"},
            "1 class added: c; training pictures: 1 added (a/2.png), 1 removed (a/0.png)",
        ),
    ],
)
def test_classes_that_were_added_or_removed_are_said_before_pictures_and_without_their_own(now, said):
    there, here = ({**asked(), "pictures": {"training": found}} for found in (BEFORE, now))
    assert differences(there, here) == said


def test_pictures_of_detection_have_no_class():
    there, here = (
        {**asked(), "task": DETECTION, "method": "sdpt", "pictures": {"training": {"a": f"11 {n} boxes 5e{n}"}}}
        for n in (1, 2)
    )
    assert differences(there, here) == "training pictures: 1 labeled differently (a)"


def test_the_same_pictures_in_another_folder_are_the_same_run():
    there, here = ({**asked(train_dir=name), "pictures": {"training": BEFORE}} for name in ("here", "scratch"))
    assert differences(there, here) == ""


def test_a_run_of_an_earlier_version_is_compared_without_its_pictures():
    assert differences(asked(), {**asked(), "pictures": {"training": BEFORE}}) == ""


def test_a_model_whose_files_changed_makes_another_run_and_they_are_named():
    before = {**asked(), "model_files": {"config.json": "a", "model.safetensors": "b"}}
    after = {**asked(), "model_files": {"config.json": "a", "model.safetensors": "c", "tokenizer.json": "d"}}
    said = "files of --model_name_or_path: 1 added (tokenizer.json), 1 replaced (model.safetensors)"
    assert differences(before, after) == said


def test_a_model_whose_files_are_unknown_is_compared_by_name():
    known = {**asked(model_name_or_path="here"), "model_files": {"config.json": "a"}}
    assert differences(asked(model_name_or_path="here"), known) == ""
    assert differences(asked(model_name_or_path="there"), known) == "model_name_or_path: 'there' there, 'here' here"


def test_a_model_of_the_hub_is_not_that_of_a_folder_with_its_name():
    of_hub = {**asked(model_name_or_path="here"), "model_files": None}
    assert differences(of_hub, of_hub) == ""
    assert differences(of_hub, {**of_hub, "model_files": {"config.json": "a"}}) == (
        "model_name_or_path: of the Hub there, in a folder here"
    )


def test_the_same_model_in_another_folder_is_the_same_run():
    one, other = ({**asked(model_name_or_path=name), "model_files": {"config.json": "a"}} for name in ("a", "b"))
    assert differences(one, other) == ""
