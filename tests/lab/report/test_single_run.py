"""The beginning of the report of a single run."""

from peft_mudpt.lab.report.single_run import CLASSES_LISTED
from peft_mudpt.lab.report.tables import LEGEND, markdown_report
from peft_mudpt.lab.report.verdict import verdict
from peft_mudpt.lab.schema import read_results
from tests.lab.report.made_results import cells, counts, result
from tests.lab.report.made_run import made_run


def test_the_report_of_a_run_begins_with_what_its_page_shows_first(tmp_path):
    (one,) = read_results(made_run(tmp_path / "run", tmp_path / "pictures"))
    report = markdown_report([one], {})
    assert report.index(verdict(one, "test")) < report.index("- Calibration error: ") < report.index(LEGEND)
    assert cells(report, "Accuracy of each class") == [
        ["class", "trained on", "right", "accuracy", "before training", "change"],
        ["dog", "2", "1 of 3", "33.3", "33.3", "+0.0"],
        ["cat", "2", "2 of 4", "50.0", "50.0", "+0.0"],
        ["cow", "2", "2 of 2", "100.0", "100.0", "+0.0"],
    ]
    assert cells(report, "Which classes are confused")[1:] == [
        ["dog", "cow", "2 of 3"],
        ["cat", "dog", "1 of 4"],
        ["cat", "cow", "1 of 4"],
    ]


def test_each_test_set_has_its_own_part():
    one = result(metrics={"base": counts(cat=9), "new": counts(hen=3), "others": None}, zero_shot={})
    report = markdown_report([one], {})
    assert "## What the run has reached: new" in report and ": others" not in report
    assert cells(report, "Accuracy of each class: new") == [
        ["class", "trained on", "right", "accuracy"],
        ["hen", "–", "3 of 10", "30.0"],
    ]


def test_more_classes_than_one_wants_to_read_are_counted():
    many = counts(**{f"class_{i}": 5 for i in range(CLASSES_LISTED + 2)})
    report = markdown_report([result(metrics={"test": many})], {})
    assert len(cells(report, "Accuracy of each class")) == 1 + CLASSES_LISTED
    assert "And 2 more accurate classes" in report


def test_a_report_of_several_runs_has_no_such_part():
    assert "What the run has reached" not in markdown_report([result(), result("coop")], {})
    assert "What the run has reached" in markdown_report([result()], {})
