"""How precise the accuracies of a report are."""

from peft_mudpt.lab.report.tables import markdown_report
from tests.lab.report.made_results import base_to_new, cells, counts, result


TITLE = "How precise a single run is"


def test_the_best_run_of_each_test_set_has_an_interval():
    tests = {"base": counts(cat=9, dog=7), "new": counts(cow=5)}
    runs = [
        base_to_new("mudpt", 80.0, 50.0, 61.5) | {"metrics": tests},
        base_to_new("coop", 40.0, 50.0, 61.5) | {"metrics": {"base": counts(cat=4, dog=4), "new": None}},
    ]
    # Wilson's intervals of 16 of 20 and 5 of 10
    assert cells(markdown_report(runs, {}), TITLE)[1:] == [
        ["base-to-new, 16 shots, base", "20", "80.0", "58.4 to 91.9"],
        ["base-to-new, 16 shots, new", "10", "50.0", "23.7 to 76.3"],
    ]


def test_without_a_tested_picture_there_is_no_table():
    assert TITLE not in markdown_report([result(metrics={"test": None})], {})
    assert TITLE not in markdown_report([result()], {}, accuracy_only=True)
