"""Comparisons of federated runs, and their tables and plot."""

import json

import pytest

from peft_mudpt.lab.federated.comparison import Comparison, ComparisonOptions
from peft_mudpt.lab.federated.report import PLOT, REPORT, accuracy_rows, markdown, plot, write_report
from peft_mudpt.lab.federated.running import RESULT


def comparison(tmp_path, flags=(), **options):
    given = {"methods": "coop,fed_dpt", "settings": "federated,local", "seeds": "1,2", "output_dir": str(tmp_path)}
    return Comparison(ComparisonOptions(**{**given, **options}), list(flags))


def result(method="coop", setting="federated", seed=1, accuracy=60.0, rate=0.002):
    arguments = dict(method=method, setting=setting, seed=seed, learning_rate=rate, num_rounds=2, local_steps=3)
    arguments |= dict(shots=4, model_name_or_path="embedded")
    sent = 10**6 if setting == "federated" else 0
    rounds = [
        dict(number=0, accuracy={"a": 40.0, "b": 50.0}, bytes_up=0, bytes_down=0),
        dict(number=1, accuracy={}, bytes_up=sent, bytes_down=sent),
        dict(number=2, accuracy={"a": accuracy, "b": accuracy + 10}, bytes_up=sent, bytes_down=sent),
    ]
    return dict(
        arguments=arguments,
        clients=[{}, {}],
        rounds=rounds,
        zero_shot=rounds[0]["accuracy"],
        zero_shot_mean=45.0,
        accuracy=rounds[2]["accuracy"],
        mean=accuracy + 5,
        megabytes=4 * sent / 1e6,
        trainable_parameters=1024,
        seconds=3.0,
    )


RESULTS = [
    result(),
    result(seed=2, accuracy=62.0),
    result("fed_dpt", accuracy=70.0),
    result("fed_dpt", seed=2, accuracy=70.0),
    result("coop", "local", accuracy=80.0),
]


def test_each_method_setting_and_seed_is_a_run(tmp_path):
    runs = comparison(tmp_path, ["--num_rounds", "3"]).runs({"coop": 0.5})
    assert [run.folder.name for run in runs] == [
        f"{method}-{setting}-seed{seed}"
        for method in ("coop", "fed_dpt")
        for setting in ("federated", "local")
        for seed in (1, 2)
    ]
    first, last = runs[0].arguments(), runs[-1].arguments()
    assert (first.learning_rate, first.num_rounds, first.evaluate_on) == (0.5, 3, "test")
    assert (last.method, last.setting, last.seed, last.learning_rate) == ("fed_dpt", "local", 2, 0.004)


def test_the_best_rate_on_validation_pictures_is_chosen(tmp_path):
    planned = comparison(tmp_path, learning_rate_factors="1,10")
    searches = planned.search_runs()
    assert {run.arguments().evaluate_on for run in searches} == {"validation"}
    for run, mean in zip(searches, (50.0, 60.0, 70.0, 65.0)):
        run.folder.mkdir(parents=True)
        (run.folder / RESULT).write_text(json.dumps({"mean": mean}))
    assert planned.chosen_rates() == {"coop": 0.02, "fed_dpt": 0.004}


def test_one_factor_is_no_search(tmp_path):
    planned = comparison(tmp_path, learning_rate_factors="3")
    assert planned.search_runs() == [] and planned.chosen_rates() == {}
    assert planned.runs({})[0].arguments().learning_rate == pytest.approx(0.006)


@pytest.mark.parametrize(
    ("flags", "options", "message"),
    [
        (["--seed", "3"], {}, "decides --seed"),
        ([], {"methods": "coop,coop"}, "names nothing, or something twice"),
        ([], {"seeds": "one"}, "must be comma-separated numbers"),
        ([], {"methods": "zero_shot"}, "trains nothing"),
        (["--num_rounds", "0"], {}, "--num_rounds"),
    ],
)
def test_a_comparison_that_cannot_run_is_refused(tmp_path, flags, options, message):
    with pytest.raises(ValueError, match=message):
        comparison(tmp_path, flags, **options)


def test_rows_hold_the_domains_their_mean_and_zero_shot():
    rows = accuracy_rows(RESULTS)
    assert list(rows) == ["zero_shot", "coop, federated", "fed_dpt, federated", "coop, local"]
    assert rows["coop, federated"] == {"a": {1: 60.0, 2: 62.0}, "b": {1: 70.0, 2: 72.0}, "mean": {1: 65.0, 2: 67.0}}
    assert rows["zero_shot"]["mean"] == {1: 45.0, 2: 45.0}


def test_the_best_row_stands_first_and_costs_are_those_of_the_results():
    text = markdown(RESULTS)
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert rows[:5] == [
        "| method",
        "| coop, local (1 of 2 seeds)",
        "| fed_dpt, federated",
        "| coop, federated",
        "| zero_shot",
    ]
    assert "| coop, federated | 1,024 | 4.00 | 0.002 | 3 |" in text


def test_the_plot_has_a_curve_by_round_and_one_by_megabytes():
    figure = plot(RESULTS)
    by_round, by_megabytes = figure.axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in by_round.lines}
    assert curves["coop, federated"] == [[0, 45.0], [2, 66.0]]
    assert curves["coop, local"] == [[0, 45.0], [2, 85.0]]
    sent = {line.get_label(): line.get_xydata().tolist() for line in by_megabytes.lines}
    assert sent["fed_dpt, federated"] == [[4.0, 75.0]] and "coop, local" not in sent


def test_the_report_is_written_with_its_plot(tmp_path):
    write_report(RESULTS, tmp_path / "report")
    assert PLOT in (tmp_path / "report" / REPORT).read_text()
    assert (tmp_path / "report" / PLOT).read_bytes().startswith(b"\x89PNG")
