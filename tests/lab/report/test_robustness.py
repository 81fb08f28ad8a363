"""Tables and plots of the accuracy on attacked pictures. Every expected number is computed by hand."""

import pytest

from peft_mudpt.lab.report.drawing import save
from peft_mudpt.lab.report.plots import plot_all
from peft_mudpt.lab.report.rows import row_name
from peft_mudpt.lab.report.tables import markdown_report
from tests.lab.report.made_results import cells, result


def attacked(name, eps, clean, accuracy, test="test"):
    metrics = {test: {"pictures": 192, "clean": clean, "attacked": accuracy}}
    return {"name": name, "attack": {"eps": eps / 255, "steps": 40}, "metrics": metrics}


def robust(method, clean, *accuracies, seed=1, **changes):
    found = [attacked("embedding_kl", 16, clean, accuracies[0])]
    found += [attacked("cross_entropy", eps, clean, value) for eps, value in zip((1, 4), accuracies[1:])]
    return result(method, seed=seed, robustness=found, **changes)


def test_a_table_has_a_column_for_each_attack():
    runs = [robust("mudpt", 80.0, 40.0, 60.0, 20.0), robust("mudpt", 90.0, 50.0, 70.0, 30.0, seed=2)]
    report = markdown_report([*runs, robust("coop", 70.0, 30.0, 50.0, 35.0)], {})
    table = cells(report, "Attacked pictures: few-shot, 4 shots")
    assert table[0] == ["method", "clean", "embedding_kl 16/255", "cross_entropy 1/255", "cross_entropy 4/255"]
    assert [row[1:] for row in table[1:]] == [
        ["70.0", "30.0", "50.0", "**35.0**"],
        ["**85.0 ± 7.1**", "**45.0 ± 7.1**", "**65.0 ± 7.1**", "25.0 ± 7.1"],
    ]
    assert "in 40 steps, on 192 pictures" in report and "neither labels nor texts" in report


def test_attacks_of_different_strength_do_not_share_a_column():
    runs = [robust("mudpt", 80.0, 40.0, seed=seed) for seed in (1, 2)]
    runs[1]["robustness"][0]["attack"]["steps"] = 2
    with pytest.raises(ValueError, match="embedding_kl 16/255 attacked with other steps"):
        markdown_report(runs, {})


def test_the_steps_of_an_attack_that_has_others_are_named():
    run = robust("mudpt", 80.0, 40.0, 60.0, 20.0)
    run["robustness"][0]["attack"]["steps"] = 100
    assert "in 40 steps, `embedding_kl` 16/255 in 100, on 192 pictures" in markdown_report([run], {})


def test_results_without_attacks_have_no_such_table():
    assert "Attacked" not in markdown_report([result()], {})


def test_the_row_of_a_run_names_how_it_learned_from_attacked_pictures():
    run = result(clean_weight=0.5)
    for adversarial, name in ((True, "mudpt adversarial clean_weight 0.5"), (False, "mudpt clean_weight 0.5")):
        run["arguments"]["adversarial"] = adversarial
        assert row_name(run) == name


def test_the_plot_has_a_panel_for_each_attack_and_one_for_the_trade_off(tmp_path):
    runs = [robust("mudpt", 80.0, 40.0, 60.0, 20.0), robust("zero_shot", 70.0, 30.0, 50.0, 35.0)]
    figure = plot_all(runs)["robustness.png"]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["embedding_kl", "cross_entropy", "cross_entropy 4/255"]  # where the rows differ most
    line = figure.axes[1].containers[-1].lines[0]
    assert line.get_xdata().tolist() == [0, 1, 4] and line.get_ydata().tolist() == [80, 60, 20]
    (point,) = [line for line in figure.axes[2].lines if line.get_label() == "mudpt"]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (80, 20)
    save(figure, tmp_path / "plot.png")
    assert "robustness.png" not in plot_all([result()])
