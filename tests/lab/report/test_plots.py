"""The plots show the numbers of the results. The tests read them from the figures."""

import json

import pytest

from peft_mudpt.lab.method import CLASSIFICATION
from peft_mudpt.lab.methods import METHODS
from peft_mudpt.lab.report import plots
from peft_mudpt.lab.report.drawing import label_of, save
from tests.lab.report.made_results import base_to_new, counts, result, search


def line(figure, label):
    """The points of the line with this label."""
    (axes,) = figure.axes
    handles, labels = axes.get_legend_handles_labels()
    handle = handles[labels.index(label)]
    return getattr(handle, "lines", [handle])[0].get_xydata().tolist()


def test_accuracy_is_plotted_by_shots_and_zero_shot_at_zero():
    runs = [result(accuracy=70.0, seed=1), result(accuracy=74.0, seed=2), result(accuracy=80.0, shots=8)]
    figure = plots.plot_accuracy_by_shots([*runs, result("zero_shot", 45.0)])
    assert line(figure, "mudpt") == [[4, 72], [8, 80]]
    assert line(figure, "zero_shot") == [[0, 45]]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0", "4", "8"]


def test_bars_are_base_new_and_harmonic_mean():
    figure = plots.plot_base_to_new(
        [base_to_new("linear_probe", 90.0, None, None), base_to_new("mudpt", 80.0, 60.0, 68.5)]
    )
    (axes,) = figure.axes
    heights = {
        bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")
    }
    assert heights == {"linear_probe": [90.0], "mudpt": [80.0, 60.0, 68.5]}


def test_accuracy_at_the_most_shots_is_plotted_by_trainable_parameters():
    runs = [
        result("coop", 60.0, shots=16, trainable_parameters=8192),
        result(accuracy=70.0, shots=16),
        result(shots=4),
    ]
    figure = plots.plot_accuracy_by_parameters([*runs, result("zero_shot", 45.0, trainable_parameters=0)])
    assert line(figure, "coop") == [[8192, 60]]
    assert line(figure, "mudpt") == [[1234567, 70]]
    assert figure.axes[0].get_xscale() == "log"


def test_class_gains_are_means_over_seeds_at_the_most_shots():
    zero_shot = {"test": counts(cat=5, dog=9, same=5)}
    runs = [
        result(shots=16, seed=1, metrics={"test": counts(cat=9, dog=8, same=6)}, zero_shot=zero_shot),
        result(shots=16, seed=2, metrics={"test": counts(cat=7, dog=6, same=4)}, zero_shot=zero_shot),
        result(shots=4, metrics={"test": counts(cat=0, dog=0, same=0)}, zero_shot=zero_shot),
    ]
    (axes,) = plots.plot_class_gains(runs).axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    widths = {names[round(bar.get_y() + 0.4)]: bar.get_width() for bar in axes.patches}
    assert widths == pytest.approx({"cat": 30.0, "dog": -20.0})


@pytest.mark.parametrize("name", ["$$ store", "a_{1}$x^$", "\\frac$1$", "cost $5 or $6"])
def test_a_name_is_text_and_no_formula(name, tmp_path):
    before, after = ({"test": counts(**{name: right, "cat": 5})} for right in (5, 9))
    run = result(method_kwargs=json.dumps({"text_prompt_init_text": name}), metrics=after, zero_shot=before)
    for file, figure in plots.plot_all([run]).items():
        save(figure, tmp_path / file)  # draws
    (axes,) = plots.plot_class_gains([run]).axes
    assert name in [tick.get_text() for tick in axes.get_yticklabels()]


def test_at_most_twelve_gains_and_twelve_losses_are_plotted():
    names = [f"class {i}" for i in range(40)]
    before, after = ({"test": counts(**dict(zip(names, ns)))} for ns in ([5] * 40, [7] * 20 + [3] * 20))
    (axes,) = plots.plot_class_gains([result(metrics=after, zero_shot=before)]).axes
    assert [len(bars.patches) for bars in axes.containers] == [12, 12]


def test_without_mudpt_the_class_gains_are_of_the_most_accurate_method():
    (axes,) = plots.plot_class_gains([result("coop", 60.0), result("maple", 70.0), result("zero_shot", 99.0)]).axes
    assert axes.get_title().startswith("MaPLe, 4 pictures per class")


def test_every_figure_names_the_data_set_and_the_model_and_methods_by_their_titles():
    figure = plots.plot_all([result("coop", 60.0, shots=16), result("zero_shot", 45.0)])["accuracy_by_shots.png"]
    assert figure.get_suptitle() == "dtd, some/clip"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Zero-shot CLIP", "CoOp"]


def test_a_legend_is_as_wide_as_its_figure_at_most():
    figure = plots.plot_overview(
        [one for name in METHODS for one in (result(name), base_to_new(name, 80.0, 70.0, 74.7))]
    )
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len(METHODS) and legend.get_window_extent().width <= figure.bbox.width


def test_a_long_name_in_a_legend_has_several_lines():
    label = label_of('mudpt {"prompt_depth": 3, "fusion_type": "linear"}')
    assert label.split("\n") == ['MuDPT {"prompt_depth": 3,', '"fusion_type": "linear"}']


@pytest.mark.parametrize(("format", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_file_has_the_format_of_its_name_and_is_the_same_each_time(format, start, tmp_path):
    written = []
    for name in ("one", "other"):
        figure = plots.plot_all([result()])["overview.png"]
        save(figure, tmp_path / f"{name}.{format}")
        written.append((tmp_path / f"{name}.{format}").read_bytes())
    assert written[0].startswith(start) and written[0] == written[1]


def test_figures_without_results_are_left_out():
    every = set(plots.FIGURES[CLASSIFICATION])
    assert set(plots.plot_all([result()])) == every - {"base_to_new.png", "reliability.png", "robustness.png"}
    assert set(plots.plot_all([base_to_new("mudpt", 80.0, 60.0, 68.5)])) == {"overview.png", "base_to_new.png"}
    assert plots.plot_all([search("mudpt", 0.1, 50.0)]) == {}


def test_the_overview_holds_both_protocols():
    figure = plots.plot_overview([result(), base_to_new("mudpt", 80.0, 60.0, 68.5)])
    assert [axes.get_title() for axes in figure.axes] == ["All classes", "Base to new"]


def test_a_run_without_test_pictures_has_no_plot_of_class_gains():
    assert (
        plots.plot_class_gains([result(accuracy=None, metrics={}, zero_shot={}, summary={"accuracy": None})]) is None
    )
