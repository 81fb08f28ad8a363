"""Paired differences between the rows of a table. Every expected number is computed by hand."""

import pytest

from peft_mudpt.lab.report.paired import mean_and_interval, t_quantile
from peft_mudpt.lab.report.tables import markdown_report
from tests.lab.report.made_results import base_to_new, cells, counts, result


def report(*results, reference="ivlp") -> str:
    return markdown_report(results, pictures={}, paired=[reference])


def differences(*results, reference="ivlp") -> list[list[str]]:
    """The cells of the table of differences in the few-shot protocol, without its header."""
    return cells(report(*results, reference=reference), "Few-shot: all classes, by shots per class: diff")[1:]


def runs(method, *accuracies, **changes) -> list[dict]:
    """Results with the seeds 1, 2, ..."""
    return [result(method, accuracy, seed=seed, **changes) for seed, accuracy in enumerate(accuracies, 1)]


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (100, 1.9840), (10_000, 1.9602)],
)
def test_the_quantile_is_that_of_published_tables_of_students_t(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, abs=6e-5)


def test_the_interval_is_t_standard_errors_to_each_side():
    # mean 2, sample deviation 1, and 4.3027 / sqrt(3) = 2.4842
    assert mean_and_interval({1: 1.0, 2: 3.0, 3: 2.0}) == pytest.approx((2.0, 2.4842), abs=1e-4)


def test_differences_are_paired_by_seed_and_not_of_unrelated_runs():
    # the accuracies differ by 10 points between seeds, the differences are 1, 3 and 2
    assert differences(*runs("ivlp", 60.0, 70.0, 80.0), *runs("mudpt", 61.0, 73.0, 82.0)) == [
        ["mudpt", "+2.0 [-0.5, +4.5]"]
    ]


def test_a_difference_whose_interval_does_not_contain_zero_is_bold():
    table = differences(*runs("ivlp", 60.0, 70.0), *runs("mudpt", 50.0, 60.0), *runs("coop", 64.0, 75.0))
    # coop: 4.5 on average, deviation 0.7071, 12.7062 * 0.7071 / sqrt(2) = 6.3531
    assert table == [["coop", "+4.5 [-1.9, +10.9]"], ["mudpt", "**-10.0 [-10.0, -10.0]**"]]


def test_only_seeds_that_both_rows_have_count():
    table = differences(*runs("ivlp", 60.0, 70.0), *runs("mudpt", 61.0, 71.0, 99.0), *runs("coop", 50.0))
    assert table == [["mudpt", "**+1.0 [+1.0, +1.0]**"], ["coop (1 of 2 seeds)", "-10.0"]]


def test_a_row_with_other_options_can_be_the_reference():
    plain = runs("mudpt", 60.0, 62.0, method_kwargs='{"fusion_direction": "none"}')
    reference = 'mudpt {"fusion_direction": "none"}'
    assert differences(*plain, *runs("mudpt", 61.0, 63.0), reference=reference)[0][1] == "**+1.0 [+1.0, +1.0]**"


def test_other_numbers_of_shots_are_not_paired():
    table = cells(
        report(*runs("ivlp", 60.0, shots=4), *runs("mudpt", 70.0, shots=4), *runs("mudpt", 75.0, shots=16)),
        "Few-shot: all classes, by shots per class: diff",
    )
    assert table == [["method", "4"], ["mudpt", "+10.0"]]


def test_zero_shot_is_compared_whatever_its_shots():
    made = [*runs("zero_shot", 50.0, shots=16), *runs("mudpt", 60.0, shots=4), *runs("mudpt", 70.0, shots=16)]
    made += [*runs("ivlp", 55.0, shots=4), *runs("ivlp", 66.0, shots=16)]
    assert differences(*made)[1] == ["zero_shot", "-5.0", "-16.0"]
    assert differences(*made, reference="zero_shot")[0] == ["mudpt", "+10.0", "+20.0"]


def test_runs_on_other_training_pictures_are_left_out_and_named():
    def drawn(picture):
        return {"items": {"train": [picture], "validation": []}}

    made = [*runs("ivlp", 60.0, 70.0, **drawn("a.png")), *runs("mudpt", 61.0, **drawn("a.png"))]
    made.append(result("mudpt", 99.0, seed=2, **drawn("b.png")))
    assert differences(*made) == [["mudpt", "+1.0"]]
    assert "Left out, because they used other pictures: mudpt (seed 2)." in report(*made)


@pytest.mark.parametrize("predicted", [True, False], ids=["by item", "of an earlier version, by number"])
def test_runs_on_other_test_pictures_are_left_out(predicted):
    def tested(accuracy, item):
        metrics = {**counts(cat=5), "accuracy": accuracy, "predictions": {"cat": {item: "cat"}}}
        if not predicted:
            del metrics["predictions"]
            metrics["classes"]["cat"][1] += len(item)
        return {"metrics": {"test": metrics}}

    made = [*runs("ivlp", 60.0, **tested(60.0, "a")), *runs("mudpt", 61.0, **tested(61.0, "a"))]
    made += runs("coop", 99.0, **tested(99.0, "other"))
    assert differences(*made) == [["mudpt", "+1.0"]]


def test_every_column_of_base_to_new_is_paired_and_a_missing_value_has_a_dash():
    made = [base_to_new("ivlp", 80.0, 40.0, 53.3), base_to_new("mudpt", 79.0, 45.0, 57.3)]
    table = cells(report(*made, base_to_new("linear_probe", 85.0, None, None)), "Base-to-new, 16 shots: diff")
    assert table[1:] == [["mudpt", "-1.0", "+5.0", "+4.0"], ["linear_probe", "+5.0", "–", "–"]]


def test_the_mean_over_data_sets_is_paired_too():
    made = [*runs("ivlp", 60.0, 70.0), *runs("mudpt", 61.0, 73.0)]  # differences 1 and 3
    made += [*runs("ivlp", 50.0, 50.0, dataset="ucf101"), *runs("mudpt", 52.0, 50.0, dataset="ucf101")]  # 2 and 0
    assert cells(report(*made), "Few-shot: mean over 2 data sets: diff")[1:] == [["mudpt", "**+1.5 [+1.5, +1.5]**"]]


def test_validation_results_of_a_search_are_not_compared():
    made = [*runs("ivlp", 60.0), *runs("mudpt", 61.0), *runs("mudpt", 99.0, evaluate_on="validation")]
    assert differences(*made) == [["mudpt", "+1.0"]]


def test_a_reference_without_results_is_refused_and_the_rows_are_named():
    with pytest.raises(ValueError, match="--paired 'vpt' .*ivlp, mudpt"):
        report(*runs("ivlp", 60.0), *runs("mudpt", 61.0), reference="vpt")
