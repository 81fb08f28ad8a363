"""What many experiments say together: every number here is worked out by hand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from peft_mudpt.fewshot import plots, tables
from peft_mudpt.fewshot.results import write_result
from peft_mudpt.fewshot.rows import few_shot_rows, mean_over_data_sets, sections


pytest.importorskip("matplotlib")

SCRIPT = Path(__file__).parents[1] / "examples" / "report.py"


def counts(**right) -> dict:
    """Metrics of a test set from how many of 10 pictures of each class were right."""
    accuracy = 10 * sum(right.values()) / len(right)
    classes = {name: [count, 10] for name, count in right.items()}
    return {"accuracy": accuracy, "mean_class_accuracy": accuracy, "classes": classes}


def result(method="mudpt", accuracy=80.0, shots=4, seed=1, dataset="dtd", **changes) -> dict:
    """A result of the few-shot protocol; `changes` are fields of the result, or of its arguments."""
    made = {
        "arguments": {
            "model_name_or_path": "some/clip",
            "method": method,
            "method_kwargs": None,
            "protocol": "few-shot",
            "shots": shots,
            "seed": seed,
            "evaluate_on": "test",
        },
        "dataset": dataset,
        "method": method,
        "class_names": ["cat", "dog"],
        "template": "a photo of a {}.",
        "template_after_prompts": "{}.",
        "items": {"train": [], "validation": []},
        "metrics": {"test": {**counts(cat=9, dog=7), "accuracy": accuracy}},
        "zero_shot": {"test": counts(cat=5, dog=9)},
        "summary": {"accuracy": accuracy},
        "optimizer": "sgd",
        "learning_rate": 0.0025,
        "steps": 10,
        "loss": 0.5,
        "trainable_parameters": 1234567,
        "adapter_bytes": 4_938_268,
        "seconds": {"training": 10.0, "total": 12.0},
        "peak_memory_bytes": 500_000_000,
        "nearest_words": None,
        "versions": {},
        "hardware": {},
    }
    for name, value in changes.items():
        (made if name in made else made["arguments"])[name] = value
    return made


def base_to_new(method, base, new, harmonic_mean, seed=1) -> dict:
    summary = {"base": base, "new": new, "harmonic_mean": harmonic_mean}
    return result(method, seed=seed, protocol="base-to-new", shots=16, summary=summary)


def search(method, learning_rate, accuracy) -> dict:
    return result(method, accuracy, evaluate_on="validation", learning_rate=learning_rate)


def cells(text: str, heading: str) -> list[list[str]]:
    """The table under a heading of a report, row by row, header first."""
    lines = text.split(f"# {heading}")[1].split("\n#")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    return [row for row in rows if "---" not in row[0]]


def report(*results) -> str:
    return tables.markdown_report(results, pictures={})


def few_shot(*results) -> list[list[str]]:
    return cells(report(*results), "Few-shot: all classes")


# --- accuracies


def test_methods_stand_in_the_fields_order_and_others_last():
    asked = ["mudpt", "brandnew", "coop", "maple", "zero_shot", "lora", "cocoop"]
    ordered = ["zero_shot", "lora", "coop", "cocoop", "maple", "mudpt", "brandnew"]
    assert [row[0] for row in few_shot(*map(result, asked))[1:]] == ordered


def test_a_cell_is_mean_and_sample_deviation_over_seeds():
    runs = [result(accuracy=accuracy, seed=seed) for seed, accuracy in ((1, 70.0), (2, 74.0), (3, 72.0))]
    assert few_shot(*runs)[1] == ["mudpt", "**72.0 ± 2.0**"]  # the population's deviation would be 1.6
    assert "mean ± standard deviation over 3 seeds" in report(*runs)


def test_one_seed_has_no_deviation():
    assert few_shot(result(accuracy=71.26))[1] == ["mudpt", "**71.3**"]
    assert "Accuracy in %, one seed." in report(result())


def test_columns_are_shots_by_size_and_the_best_of_each_is_bold():
    runs = [result("coop", 60.0, shots=16), result("coop", 50.0, shots=2)]
    runs += [result("mudpt", 70.0, shots=16), result("mudpt", 40.0, shots=2)]
    assert few_shot(*runs) == [["method", "2", "16"], ["coop", "**50.0**", "60.0"], ["mudpt", "40.0", "**70.0**"]]


def test_what_was_not_run_is_empty():
    runs = [result("coop", 60.0, shots=16), result("mudpt", 70.0, shots=16), result("mudpt", 40.0, shots=2)]
    assert few_shot(*runs)[1] == ["coop", "", "60.0"]


def test_zero_shot_run_once_stands_in_every_column():
    runs = [result("zero_shot", 45.0, shots=1), result(shots=4, accuracy=70.0), result(shots=8, accuracy=75.0)]
    assert few_shot(*runs)[:2] == [["method", "4", "8"], ["zero_shot", "45.0", "45.0"]]


def test_a_row_with_fewer_seeds_says_so():
    runs = [result("coop", seed=seed) for seed in (1, 2)] + [result("mudpt", seed=seed) for seed in (1, 2, 3)]
    assert [row[0] for row in few_shot(result("zero_shot"), *runs)[1:]] == [
        "zero_shot",
        "coop (2 of 3 seeds)",
        "mudpt",
    ]


def test_a_row_whose_columns_have_unequal_seeds_says_so():
    runs = [result(seed=seed, shots=shots) for seed, shots in ((1, 4), (2, 4), (3, 4), (1, 8))]
    assert few_shot(*runs)[1][0] == "mudpt (1 to 3 of 3 seeds)"


def test_a_method_with_options_of_its_own_has_its_own_row():
    runs = [result(accuracy=70.0), result(accuracy=60.0, method_kwargs='{"prompt_depth": 3}')]
    assert [row[:2] for row in few_shot(*runs)[1:]] == [["mudpt", "**70.0**"], ['mudpt {"prompt_depth": 3}', "60.0"]]


def test_two_results_for_one_cell_are_refused_and_told_apart():
    with pytest.raises(ValueError, match="mudpt with seed 1 .* differ in template"):
        report(result(template="a {}."), {**result(), "arguments": {**result()["arguments"], "template": "{}"}})


def test_validation_results_enter_no_table_of_accuracies():
    assert few_shot(result(accuracy=70.0), search("coop", 0.1, 99.0))[1:] == [["mudpt", "**70.0**"]]


def test_the_mean_over_data_sets_holds_only_methods_that_have_all():
    runs = [
        result(accuracy=70.0, dataset="dtd"),
        result(accuracy=80.0, dataset="ucf101"),
        result("coop", dataset="dtd"),
    ]
    assert cells(report(*runs), "Few-shot: mean over 2 data sets")[1:] == [["mudpt", "**75.0**"]]


def test_the_mean_over_data_sets_is_taken_seed_by_seed():
    data_sets = ([70.0, 72.0], [80.0, 86.0])
    rows = [few_shot_rows([result(accuracy=a, seed=s) for s, a in enumerate(accuracies)]) for accuracies in data_sets]
    assert mean_over_data_sets(rows) == {"mudpt": {4: {0: 75.0, 1: 79.0}}}


def test_several_models_have_sections_of_their_own():
    runs = [result(), result(model_name_or_path="other/clip"), result(model_name_or_path="/any/where/clip", seed=2)]
    assert [part.title for part in sections(runs)] == ["dtd, some/clip", "dtd, other/clip", "dtd, clip"]


# --- the other protocols


def test_harmonic_means_are_averaged_over_runs():
    runs = [base_to_new("mudpt", 80.0, 60.0, 68.57, seed=1), base_to_new("mudpt", 60.0, 80.0, 68.57, seed=2)]
    table = cells(report(*runs), "Base-to-new, 16 shots")
    assert table[0] == ["method", "base", "new", "harmonic mean"]
    assert table[1] == ["mudpt", "**70.0 ± 14.1**", "**70.0 ± 14.1**", "**68.6 ± 0.0**"]  # of the means: 70.0


def test_a_method_that_cannot_name_new_classes_has_a_dash():
    runs = [base_to_new("linear_probe", 90.0, None, None), base_to_new("mudpt", 80.0, 60.0, 68.57)]
    assert cells(report(*runs), "Base-to-new")[1] == ["linear_probe", "**90.0**", "–", "–"]


@pytest.mark.parametrize("protocol", ["cross-dataset", "domain-generalisation"])
def test_transfer_shows_the_source_each_target_and_their_mean(protocol):
    metrics = {"dtd": counts(cat=9), "ucf101": counts(cat=4), "food101": counts(cat=6)}
    summary = {"source": 90.0, "mean_of_targets": 50.0}
    table = cells(report(result(protocol=protocol, metrics=metrics, summary=summary)), protocol.capitalize())
    assert table[0] == ["method", "source", "ucf101", "food101", "mean of targets"]
    assert table[1] == ["mudpt", "**90.0**", "**40.0**", "**60.0**", "**50.0**"]


# --- cost, words, learning rates


def test_cost_is_of_the_largest_shots_and_the_median_of_seeds():
    seconds = ((1, 10.0), (2, 30.0), (3, 11.0))
    runs = [result(seed=seed, seconds={"training": s, "total": 99.0}) for seed, s in seconds]
    runs.append(result(shots=2, learning_rate=0.1, seconds={"training": 1.0, "total": 1.0}))
    (row,) = cells(report(*runs), "Cost: few-shot, 4 shots")[1:]
    assert row == ["mudpt", "1,234,567", "4,938", "sgd", "0.0025", "11.0", "500"]


def test_what_trains_nothing_costs_a_dash():
    nothing = dict(optimizer=None, learning_rate=None, trainable_parameters=0, adapter_bytes=0)
    (row,) = cells(report(result("zero_shot", seconds={"training": 0, "total": 1}, **nothing)), "Cost")[1:]
    assert row == ["zero_shot", "0", "0", "–", "–", "0.0", "500"]


def test_nearest_words_are_of_the_largest_shots_and_the_smallest_seed():
    def words(*named):
        return [
            [{"word": word, "distance": distance}, {"word": "farther", "distance": 9.0}] for word, distance in named
        ]

    runs = [
        result(shots=16, seed=2, nearest_words=words(("no", 1.0))),
        result(shots=16, seed=1, nearest_words=words(("a|b", 0.25), ("the", 0.5))),
        result(shots=4, seed=1, nearest_words=words(("no", 1.0))),
        result("lora", shots=16),
    ]
    table = cells(report(*runs), "Nearest words")
    assert table == [["method", "token 1", "token 2"], ["mudpt", r"a\|b (0.25)", "the (0.50)"]]


def test_the_chosen_learning_rate_of_each_method_is_bold():
    runs = [search("coop", 0.01, 60.0), search("coop", 0.002, 50.0), search("mudpt", 0.002, 70.0)]
    table = cells(report(*runs, result()), "Learning rates")
    assert table[0][1:] == ["0.002", "0.01"]
    assert table[1:] == [["coop", "50.0", "**60.0**"], ["mudpt", "**70.0**", ""]]


def test_the_report_begins_with_what_the_data_are():
    assert report(result(dataset="faded")).startswith("Data: `faded`. An embedded world of drawn shapes")
    assert report(result()).splitlines()[0] == "Data: `dtd`."


# --- figures


def line(figure, label):
    """The points of a drawn line, by its label."""
    (axes,) = figure.axes
    handles, labels = axes.get_legend_handles_labels()
    handle = handles[labels.index(label)]
    return getattr(handle, "lines", [handle])[0].get_xydata().tolist()


def test_accuracy_is_drawn_against_shots_and_zero_shot_at_none():
    runs = [result(accuracy=70.0, seed=1), result(accuracy=74.0, seed=2), result(accuracy=80.0, shots=8)]
    figure = plots.draw_accuracy_by_shots([*runs, result("zero_shot", 45.0)])
    assert line(figure, "mudpt") == [[4, 72], [8, 80]]
    assert line(figure, "zero_shot") == [[0, 45]]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0", "4", "8"]


def test_bars_are_base_new_and_harmonic_mean():
    figure = plots.draw_base_to_new(
        [base_to_new("linear_probe", 90.0, None, None), base_to_new("mudpt", 80.0, 60.0, 68.5)]
    )
    (axes,) = figure.axes
    heights = {
        bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")
    }
    assert heights == {"linear_probe": [90.0], "mudpt": [80.0, 60.0, 68.5]}


def test_accuracy_is_drawn_against_trainable_parameters_of_the_largest_shots():
    runs = [
        result("coop", 60.0, shots=16, trainable_parameters=8192),
        result(accuracy=70.0, shots=16),
        result(shots=4),
    ]
    figure = plots.draw_accuracy_by_parameters([*runs, result("zero_shot", 45.0, trainable_parameters=0)])
    assert line(figure, "coop") == [[8192, 60]]
    assert line(figure, "mudpt") == [[1234567, 70]]
    assert figure.axes[0].get_xscale() == "log"


def test_gained_and_lost_classes_are_the_mean_over_seeds_at_the_largest_shots():
    zero_shot = {"test": counts(cat=5, dog=9, same=5)}
    runs = [
        result(shots=16, seed=1, metrics={"test": counts(cat=9, dog=8, same=6)}, zero_shot=zero_shot),
        result(shots=16, seed=2, metrics={"test": counts(cat=7, dog=6, same=4)}, zero_shot=zero_shot),
        result(shots=4, metrics={"test": counts(cat=0, dog=0, same=0)}, zero_shot=zero_shot),
    ]
    (axes,) = plots.draw_class_gains(runs).axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    widths = {names[round(bar.get_y() + 0.4)]: bar.get_width() for bar in axes.patches}
    assert widths == pytest.approx({"cat": 30.0, "dog": -20.0})


def test_at_most_twelve_classes_gain_and_lose_in_the_picture():
    names = [f"class {i}" for i in range(40)]
    before, after = (
        {"test": counts(**{name: n for name, n in zip(names, ns)})} for ns in ([5] * 40, [7] * 20 + [3] * 20)
    )
    (axes,) = plots.draw_class_gains([result(metrics=after, zero_shot=before)]).axes
    assert [len(bars.patches) for bars in axes.containers] == [12, 12]


def test_without_mudpt_the_most_accurate_method_shows_its_classes():
    (axes,) = plots.draw_class_gains([result("coop", 60.0), result("maple", 70.0), result("zero_shot", 99.0)]).axes
    assert axes.get_title().startswith("maple, 4 pictures per class")


def test_figures_without_data_are_not_drawn():
    assert set(plots.draw_all([result()])) == set(plots.FIGURES) - {"base_to_new.png"}
    assert set(plots.draw_all([base_to_new("mudpt", 80.0, 60.0, 68.5)])) == {"overview.png", "base_to_new.png"}
    assert plots.draw_all([search("mudpt", 0.1, 50.0)]) == {}


def test_the_overview_holds_both_protocols():
    figure = plots.draw_overview([result(), base_to_new("mudpt", 80.0, 60.0, 68.5)])
    assert [axes.get_title() for axes in figure.axes] == ["All classes", "Base to new"]


# --- the script


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


def write(folder: Path, *results) -> Path:
    for i, content in enumerate(results):
        write_result(folder / str(i), content)
    return folder


def test_the_script_writes_the_report_with_its_pictures(tmp_path):
    done = run(write(tmp_path, result(dataset="faded")), "--picture", tmp_path / "docs" / "look.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout == report(result(dataset="faded"))
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    linked = re.findall(r"!\[.+?\]\((.+?)\)", text)
    assert "overview.png" in linked
    assert {file.name for file in (tmp_path / "report").iterdir()} == {"report.md", *linked}
    for path in [*(tmp_path / "report" / name for name in linked), tmp_path / "docs" / "look.png"]:
        with Image.open(path) as picture:
            assert picture.format == "PNG" and picture.width >= 600 and len(picture.getcolors(2**20)) > 50


def test_several_data_sets_have_their_pictures_in_folders(tmp_path):
    folder = write(tmp_path, result(dataset="dtd"), result(dataset="ucf101"))
    assert run(folder, "--output_dir", tmp_path / "out").returncode == 0
    assert (tmp_path / "out" / "ucf101" / "overview.png").is_file()
    assert "(ucf101/overview.png)" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_published_numbers_are_printed_as_others_and_only_when_asked(tmp_path):
    folder = write(tmp_path, result())
    asked, plain = run(folder, "--published").stdout, run(folder).stdout
    assert "not reproduced here" in asked and "not reproduced" not in plain
    assert cells(asked, "Base to new: 16 shots")[6] == ["MaPLe", "82.28", "75.14", "78.55", asked_source(asked)]
    assert "≈83.0" in asked and "python examples/sweep.py --protocol few-shot --coop_root DIR" in asked


def asked_source(text: str) -> str:
    return re.search(r"\[table 1 of this list\]\(https://\S+\)", text)[0]


@pytest.mark.parametrize("flag", [[], ["--picture", "look.png"]])
def test_a_folder_without_results_is_refused(tmp_path, flag):
    done = run(tmp_path, *flag)
    assert done.returncode == 2 and "holds no result.json" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_picture_of_several_data_sets_is_refused_before_anything_is_written(tmp_path):
    folder = write(tmp_path / "runs", result(dataset="dtd"), result(dataset="ucf101"))
    done = run(folder, "--picture", tmp_path / "look.png")
    assert done.returncode == 2 and "one data set" in done.stderr
    assert not (folder / "report").exists() and not (tmp_path / "look.png").exists()


def test_missing_matplotlib_is_named_before_anything_is_written(tmp_path):
    folder = write(tmp_path, result())
    hide = f"import sys, runpy; sys.modules['matplotlib'] = None; sys.argv = {json.dumps([str(SCRIPT), str(folder)])}"
    code = f"{hide}; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install 'peft_mudpt[report]'" in done.stderr
    assert not (folder / "report").exists()
