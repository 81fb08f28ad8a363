"""The plot of several data sets, read from the figure."""

from peft_mudpt.lab.report.panels import plot_data_sets
from peft_mudpt.lab.report.sections import sections
from peft_mudpt.lab.report.tables import markdown_report
from tests.lab.report.made_results import base_to_new, result


RUNS = [
    *(result("coop", 60.0 + shots, shots=shots, dataset="dtd") for shots in (1, 4)),
    *(result("coop", 80.0 + shots, shots=shots, dataset="ucf101") for shots in (1, 4)),
]


def test_the_mean_stands_before_each_data_set():
    (figures,) = plot_data_sets(sections(RUNS)).values()
    (figure,) = figures.values()
    lines = {axes.get_title(): axes.containers[0].lines[0].get_xydata().tolist() for axes in figure.axes}
    assert lines == {
        "Mean over 2 data sets": [[1, 71], [4, 74]],
        "dtd": [[1, 61], [4, 64]],
        "ucf101": [[1, 81], [4, 84]],
    }
    assert figure.get_suptitle() == "some/clip" and len(figure.legends) == 1


def test_data_sets_without_a_common_method_have_no_mean():
    runs = [result("coop", dataset="dtd"), result("mudpt", dataset="ucf101")]
    (figures,) = plot_data_sets(sections(runs)).values()
    (figure,) = figures.values()
    assert [axes.get_title() for axes in figure.axes] == ["dtd", "ucf101"]


def test_each_model_has_a_plot():
    others = [{**run, "arguments": {**run["arguments"], "model_name_or_path": "other/clip"}} for run in RUNS]
    assert list(plot_data_sets(sections(RUNS + others))) == [
        "all data sets, some/clip",
        "all data sets, other/clip",
    ]


def test_one_data_set_or_another_protocol_has_none():
    assert plot_data_sets(sections(RUNS[:2])) == {}
    assert plot_data_sets(sections([RUNS[0], base_to_new("coop", 80.0, 60.0, 68.5) | {"dataset": "ucf101"}])) == {}


def test_the_report_shows_it_above_the_means():
    report = markdown_report(RUNS, {"all data sets": ["folder/plot.png"], "dtd": ["dtd/overview.png"]})
    places = [report.index(text) for text in ("folder/plot.png", "mean over 2 data sets", "## dtd", "dtd/overview")]
    assert places == sorted(places)
