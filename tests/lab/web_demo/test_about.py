"""What visitors of the page are told about the classifier."""

import pytest

from peft_mudpt import demo
from peft_mudpt.lab.backbone import EMBEDDED
from peft_mudpt.lab.web_demo.about import About, describe, name_of
from tests.lab.report.made_results import counts, result


def test_the_accuracy_of_the_run_is_told_with_its_interval_and_the_number_of_pictures():
    (line,) = describe("birds", result(), "some/clip").lines
    # 16 of 20: Wilson's interval, see tests/lab/test_intervals.py
    assert "20 test pictures" in line and "80.0 %" in line and "58.4 to 91.9 %" in line


def test_each_test_set_that_was_tested_has_a_line_which_names_it_as_text():
    metrics = {"base": counts(cat=9, dog=7), "*new*": counts(cow=5), "none": None}
    base, new = describe("birds", result(metrics=metrics, evaluate_on="validation"), "some/clip").lines
    assert "20 validation pictures of its run (base)" in base and "10 validation pictures" in new
    assert "\\*new\\*" in new


@pytest.mark.parametrize(
    ("found", "base", "told"),
    [
        ({}, demo.MODEL_PATH, True),
        (result(model_name_or_path=EMBEDDED), "elsewhere/clip", True),
        ({}, "some/clip", False),
    ],
    ids=["by its folder", "by the run", "another CLIP"],
)
def test_that_the_embedded_clip_knows_drawn_shapes_only_is_told(found, base, told):
    assert any("drawn shapes only" in line for line in describe("birds", found, base).lines) == told


def test_without_a_result_there_is_the_name_alone():
    assert describe("birds", {}, "some/clip") == About("birds", [])


def test_the_title_begins_with_the_name_as_text():
    about = About("<b>birds</b>", ["Line."])
    assert about.title.startswith("<b>birds</b>: ") and about.as_markdown().startswith("# \\<b\\>birds")
    assert about.as_markdown().endswith("\n\nLine.") and About().title == "What is in the picture?"


def test_an_adapter_is_named_by_its_folder_without_the_path_or_by_its_id(tmp_path, monkeypatch):
    (tmp_path / "birds").mkdir()
    monkeypatch.chdir(tmp_path / "birds")
    assert name_of(tmp_path / "birds") == name_of(".") == "birds" and name_of("user/adapter") == "user/adapter"
