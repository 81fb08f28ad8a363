"""The tables of a report. Every expected number is computed by hand."""

import json
import re

import pytest

from peft_mudpt.lab.report.rows import few_shot_rows, mean_over_data_sets, row_name
from peft_mudpt.lab.report.sections import sections
from peft_mudpt.lab.report.tables import markdown_report
from tests.lab.report.made_results import base_to_new, cells, counts, result, search


def report(*results) -> str:
    return markdown_report(results, pictures={})


def few_shot(*results) -> list[list[str]]:
    return cells(report(*results), "Few-shot: all classes")


# --- accuracies


def test_the_best_mean_of_the_last_column_stands_first_and_unknown_methods_too():
    accuracies = {"zero_shot": 50.0, "coop": 60.0, "mudpt": 55.0, "brandnew": 70.0}
    runs = [result(name, accuracy, shots=16) for name, accuracy in accuracies.items()]
    runs += [result("zero_shot", 90.0, shots=1), result("coop", 10.0, shots=1)]
    assert [row[0] for row in few_shot(*runs)[1:]] == ["brandnew", "coop", "mudpt", "zero_shot"]


def test_rows_without_a_value_in_the_last_column_stand_last_by_the_column_before():
    runs = [base_to_new("linear_probe", 90.0, None, None), base_to_new("lora", 95.0, None, None)]
    runs += [base_to_new("coop", 40.0, 20.0, 26.7), base_to_new("mudpt", 30.0, 30.0, 30.0)]
    names = [row[0] for row in cells(report(*runs), "Base-to-new, 16 shots")[1:]]
    assert names == ["mudpt", "coop", "lora", "linear_probe"]


def test_rows_that_are_printed_alike_are_in_the_order_of_the_records_and_unknown_methods_come_last():
    methods = ["mudpt", "brandnew", "coop", "maple", "zero_shot", "lora", "vpt_deep"]
    ordered = ["zero_shot", "lora", "coop", "vpt_deep", "maple", "mudpt", "brandnew"]
    runs = [result(method, 80.0 + i / 1000) for i, method in enumerate(methods)]
    assert [row[0] for row in few_shot(*runs)[1:]] == ordered


def test_a_cell_is_mean_and_sample_deviation_over_seeds():
    runs = [result(accuracy=accuracy, seed=seed) for seed, accuracy in ((1, 70.0), (2, 74.0), (3, 72.0))]
    assert few_shot(*runs)[1] == ["mudpt", "**72.0 ± 2.0**"]  # the population standard deviation would be 1.6
    assert "mean ± standard deviation over 3 seeds" in report(*runs)


def test_one_seed_has_no_deviation():
    assert few_shot(result(accuracy=71.26))[1] == ["mudpt", "**71.3**"]
    assert "Accuracy in %, one seed." in report(result())


def test_titles_say_at_most_if_classes_had_fewer_pictures_than_shots():
    fewer, enough = ({"training_pictures": {"cat": n, "dog": 4}} for n in (3, 4))
    assert "Cost: few-shot, at most 4 shots" in report(result(**fewer), result("coop", **enough))
    assert "Cost: few-shot, 4 shots" in report(result(**enough))
    both = report(result(**fewer), result(shots=2, training_pictures={"cat": 2, "dog": 2}))
    assert "had fewer pictures than 4 shots: all were used" in both
    # detection: a picture counts for each of its classes, so that some have more than was asked for
    assert "Cost: few-shot, 4 shots" in report(result(training_pictures={"cat": 3, "dog": 9}))
    assert "Cost: few-shot, 4 shots" in report(result(training_pictures=None))


def test_columns_are_shots_by_size_and_the_best_of_each_is_bold():
    runs = [result("coop", 60.0, shots=16), result("coop", 50.0, shots=2)]
    runs += [result("mudpt", 70.0, shots=16), result("mudpt", 40.0, shots=2)]
    assert few_shot(*runs) == [["method", "2", "16"], ["mudpt", "40.0", "**70.0**"], ["coop", "**50.0**", "60.0"]]


def test_the_cell_of_a_missing_run_is_empty():
    runs = [result("coop", 60.0, shots=16), result("mudpt", 70.0, shots=16), result("mudpt", 40.0, shots=2)]
    assert few_shot(*runs)[2] == ["coop", "", "60.0"]


def test_one_run_of_zero_shot_fills_every_column():
    runs = [result("zero_shot", 45.0, shots=1), result(shots=4, accuracy=70.0), result(shots=8, accuracy=75.0)]
    assert few_shot(*runs)[::2] == [["method", "4", "8"], ["zero_shot", "45.0", "45.0"]]


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


def test_anchors_and_an_average_that_a_run_set_make_another_row():
    changed = result()
    changed["arguments"] |= {"text_anchor_weight": 25, "averaging_mean": None, "image_anchor_weight": 0}
    assert row_name(changed) == "mudpt text_anchor_weight 25 image_anchor_weight 0"


def test_images_of_another_size_make_another_row_of_each_method():
    untrained = [{**result("zero_shot", 50.0, image_size=size), "optimizer": None} for size in (None, 48)]
    runs = [result(), result(image_size=48), *untrained, result(shots=8)]
    rows = {row[0]: row[1:] for row in few_shot(*runs)[1:]}
    assert rows.keys() == {"mudpt", "mudpt image_size 48", "zero_shot", "zero_shot image_size 48"}
    assert rows["zero_shot image_size 48"] == ["50.0", "50.0"]  # for each number of shots, as without training


def test_another_optimizer_makes_another_row():
    changed = result(seed=1)
    changed["arguments"]["optimizer"] = "adamw"
    assert [row[0] for row in few_shot(result(), changed)[1:]] == ["mudpt", "mudpt adamw"]


def test_the_published_warmup_makes_another_row_of_each_trained_method():
    untrained = {**result("zero_shot", 50.0, warmup="constant"), "optimizer": None}
    runs = [result(warmup="linear"), result(accuracy=70.0, warmup="constant"), untrained]
    assert [row[0] for row in few_shot(*runs)[1:]] == ["mudpt", "mudpt constant warmup", "zero_shot"]


def test_options_of_training_do_not_change_the_row_of_an_untrained_method():
    untrained = {**result("zero_shot", 50.0, shots=8, text_anchor_weight=0), "optimizer": None}
    untrained["arguments"]["optimizer"] = "adamw"
    assert few_shot(result(), result(shots=8), untrained)[2] == ["zero_shot", "50.0", "50.0"]


def test_a_method_with_options_of_its_own_has_its_own_row():
    runs = [result(accuracy=70.0), result(accuracy=60.0, method_kwargs='{"prompt_depth": 3}')]
    assert [row[:2] for row in few_shot(*runs)[1:]] == [["mudpt", "**70.0**"], ['mudpt {"prompt_depth": 3}', "60.0"]]


def test_two_results_for_one_cell_are_refused_and_the_error_names_their_difference():
    with pytest.raises(ValueError, match="mudpt with seed 1 .* template"):
        report(result(template="a {}."), {**result(), "arguments": {**result()["arguments"], "template": "{}"}})


def test_two_results_for_one_cell_are_refused_and_the_error_names_their_folders():
    with pytest.raises(ValueError, match="outputs/a and outputs/b"):
        report({**result(), "folder": "outputs/a"}, {**result(), "folder": "outputs/b"})


def test_a_result_that_lacks_a_newer_option_differs_in_no_option():
    newer = result(shots=8)
    newer["arguments"]["newer_option"] = False
    assert "differ in other options" not in report(newer, result(shots=4))


def test_validation_results_are_in_no_table_of_test_accuracies():
    assert few_shot(result(accuracy=70.0), search("coop", 0.1, 99.0))[1:] == [["mudpt", "**70.0**"]]


def test_the_mean_over_data_sets_holds_only_methods_that_ran_on_all():
    runs = [
        result(accuracy=70.0, dataset="dtd"),
        result(accuracy=80.0, dataset="ucf101"),
        result("coop", dataset="dtd"),
    ]
    assert cells(report(*runs), "Few-shot: mean over 2 data sets")[1:] == [["mudpt", "**75.0**"]]


def test_the_mean_over_data_sets_is_computed_for_each_seed():
    data_sets = ([70.0, 72.0], [80.0, 86.0])
    rows = [few_shot_rows([result(accuracy=a, seed=s) for s, a in enumerate(accuracies)]) for accuracies in data_sets]
    assert mean_over_data_sets(rows) == {"mudpt": {4: {0: 75.0, 1: 79.0}}}


def test_several_models_have_separate_sections():
    runs = [result(), result(model_name_or_path="other/clip"), result(model_name_or_path="/any/where/clip", seed=2)]
    assert [part.title for part in sections(runs)] == ["dtd, some/clip", "dtd, other/clip", "dtd, clip"]


# --- the other protocols


def test_harmonic_means_are_averaged_over_runs():
    runs = [base_to_new("mudpt", 80.0, 60.0, 68.57, seed=1), base_to_new("mudpt", 60.0, 80.0, 68.57, seed=2)]
    table = cells(report(*runs), "Base-to-new, 16 shots")
    assert table[0] == ["method", "base", "new", "harmonic mean"]
    assert table[1] == [
        "mudpt",
        "**70.0 ± 14.1**",
        "**70.0 ± 14.1**",
        "**68.6 ± 0.0**",
    ]  # not 70.0


def test_a_method_that_cannot_name_new_classes_has_a_dash():
    runs = [base_to_new("linear_probe", 90.0, None, None), base_to_new("mudpt", 80.0, 60.0, 68.57)]
    assert cells(report(*runs), "Base-to-new")[2] == ["linear_probe", "**90.0**", "–", "–"]


@pytest.mark.parametrize("protocol", ["cross-dataset", "domain-generalization"])
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
    assert row == ["mudpt", "1,234,567", "4,938", "sgd", "0.0025", "0.50", "11.0", "500"]


def test_a_title_says_one_shot_without_a_plural():
    assert "Cost: few-shot, 1 shot\n" in report(result(shots=1))


def test_the_cost_of_a_method_that_is_not_trained_has_dashes():
    nothing = dict(learning_rate=None, loss=None, trainable_parameters=0, adapter_bytes=0)
    untrained = result("zero_shot", seconds={"training": 0, "total": 1}, **nothing)
    untrained["optimizer"] = None
    (row,) = cells(report(untrained), "Cost")[1:]
    assert row == ["zero_shot", "0", "0", "–", "–", "–", "0.0", "500"]


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
    runs = [search("coop", 0.01, 60.0), search("coop", 0.002, 59.99), search("mudpt", 0.002, 70.0)]
    table = cells(report(*runs, result()), "Learning rates")
    assert table[1:] == [["coop", "0.002: 60.0", "**0.01: 60.0**"], ["mudpt", "**0.002: 70.0**", ""]]


def test_a_table_names_other_options_in_which_its_rows_differ():
    text = report(result(max_train_steps=800), result("coop", max_train_steps=None), result("coop", seed=2))
    assert "max_train_steps (800, None)" in text
    assert "max_train_steps" not in report(result(), result("coop", shots=1, seed=2))


def test_base_to_new_has_a_mean_over_data_sets_too():
    runs = [{**base_to_new("mudpt", 80.0, 60.0, 68.0), "dataset": name} for name in ("dtd", "ucf101")]
    runs[1]["summary"] = {"base": 90.0, "new": 70.0, "harmonic_mean": 78.0}
    runs.append(base_to_new("coop", 80.0, 60.0, 68.0))
    text = report(*runs)
    table = cells(text, "Base-to-new, 16 shots: mean over 2 data sets")
    assert table[1:] == [["mudpt", "**85.0**", "**65.0**", "**73.0**"]]
    assert re.search(r"^Left out.*: coop\.$", text, re.MULTILINE)


def test_the_titles_of_folders_with_the_same_name_differ():
    text = report(result(dataset="pets", train_dir="mine/pets"), result(dataset="pets", train_dir="yours/pets"))
    assert "## pets (mine/pets)" in text and "## pets (yours/pets)" in text


def test_the_plots_of_a_section_follow_its_tables_of_accuracy():
    results = [result(), base_to_new("coop", 80.0, 70.0, 74.7)]
    (section,) = sections(results)
    parts = re.findall(r"^(?:###|!).*", markdown_report(results, {section.title: ["a.png", "b.png"]}), re.MULTILINE)
    few_shot, base_to_new_table, *plots, next_table = parts[:5]
    assert few_shot.startswith("### Few-shot") and base_to_new_table.startswith("### Base-to-new")
    assert plots == ["![a.png](a.png)", "![b.png](b.png)"] and next_table.startswith("### ")


def test_the_report_begins_with_the_names_of_the_data_sets():
    assert re.match("Data: `faded`. .*drawn shapes", report(result(dataset="faded")))
    assert report(result()).splitlines()[0] == "Data: `dtd`."
    assert report(result(dataset="plain", train_dir="my/plain")).splitlines()[0] == "Data: `plain`."


@pytest.mark.parametrize("name", ["a|b", "<b>x", "$x$", "www.evil.example", "\x1b[31mred"])
def test_names_from_strangers_change_no_table(name):
    runs = [result(dataset=name, method_kwargs=json.dumps({"text_prompt_init_text": name}, ensure_ascii=False))]
    runs += [result(dataset="dtd"), result(dataset=name, protocol="cross-dataset", metrics={name: counts(cat=1)})]
    text = report(*runs)
    assert all(line.isprintable() for line in text.splitlines())
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", table_head(text, line)))
    assert not re.search(r"(?<!\\)(<b>|www|\$x)", re.sub("`[^`]*`", "", text))


def table_head(text: str, line: str) -> str:
    """The header of the table that holds a line."""
    return next(block for block in text.split("\n\n") if line in block).splitlines()[0]
