"""Tables, plots and cards of calibration. Every expected number is computed by hand."""

import pytest

from peft_mudpt.lab.report.card import model_card
from peft_mudpt.lab.report.drawing import save
from peft_mudpt.lab.report.plots import plot_all
from peft_mudpt.lab.report.tables import markdown_report
from tests.lab.report.made_results import cells, counts, result
from tests.lab.report.test_card import result as result_of_card


def bins(error, by_chance=2.0, pictures=(0, 8, 20, 30)):
    """Four bins, whose confidence is 5 points below their upper bound, and whose accuracy is `error` points lower."""
    confidence = [0.2, 0.45, 0.7, 0.95]
    accuracy = [value - error / 100 for value in confidence]
    return {
        "error": error,
        "error_by_chance": by_chance,
        "pictures": list(pictures),
        "confidence": [value if n else None for value, n in zip(confidence, pictures)],
        "accuracy": [value if n else None for value, n in zip(accuracy, pictures)],
    }


def calibrated(before, after, temperature=1.5, held=(91.0, 96.0)):
    sets = [
        {"coverage": coverage, "held": percent, "classes": size, "empty": 0.0}
        for coverage, percent, size in zip((0.9, 0.95), held, (1.25, 2.0))
    ]
    after = None if after is None else bins(after, 3.0)
    return {"temperature": after and temperature, "before": bins(before), "after": after, "sets": sets}


def measured(method="mudpt", before=8.0, after=4.0, seed=1, shots=4, **options):
    """A result with calibration."""
    metrics = {"test": {**counts(cat=9, dog=7), "calibration": calibrated(before, after, **options)}}
    return result(method, seed=seed, shots=shots, metrics=metrics)


def test_a_table_holds_means_and_deviations_over_seeds():
    runs = [
        measured(),
        measured(before=10.0, after=6.0, seed=2, temperature=1.7),
        measured("coop", 7.0, None, held=()),
    ]
    report = markdown_report([*runs, measured(shots=8)], {})
    assert report.count("the mean distance between confidence") == 1
    header, coop, mudpt = cells(report, "Calibration: few-shot, 4 shots")
    assert header[:5] == ["method", "temperature", "error before, %", "error after, %", "by chance, %"]
    assert header[5:] == ["sets at 90 %: right, %", "classes", "sets at 95 %: right, %", "classes"]
    assert mudpt[:5] == ["mudpt", "1.60 ± 0.14", "9.0 ± 1.4", "5.0 ± 1.4", "3.0 ± 0.0"]
    assert mudpt[5:] == ["91.0 ± 0.0", "1.25 ± 0.00", "96.0 ± 0.0", "2.00 ± 0.00"]
    assert coop == ["coop", "–", "7.0", "–", "2.0", "–", "–", "–", "–"]


def test_results_without_calibration_have_no_table_and_no_diagram():
    assert "Calibration" not in markdown_report([result()], {}) and "reliability.png" not in plot_all([result()])


def test_the_diagram_shows_accuracy_by_confidence_before_and_after(tmp_path):
    runs = [
        measured(shots=8),
        measured(before=20.0, seed=2, shots=8),
        measured(before=50.0),
        measured("coop", shots=8),
    ]
    figure = plot_all(runs)["reliability.png"]
    save(figure, tmp_path / "reliability.png")
    before, after = figure.axes
    lines = {line.get_label(): line.get_xydata() for line in before.get_lines()}
    assert lines["calibrated"].tolist() == [[0, 0], [100, 100]]
    # at 8 shots, over both seeds: 8 + 8 pictures in the second bin, whose accuracies are 37 and 25 %
    assert lines["mudpt"].tolist() == [pytest.approx(point) for point in ([45, 31], [70, 56], [95, 81])]
    # the second bin of one run has fewer than 10 pictures
    assert lines["coop"].tolist() == [pytest.approx(point) for point in ([70, 62], [95, 87])]
    assert len(after.get_lines()) == 3


def test_without_a_temperature_there_is_one_panel():
    assert len(plot_all([measured(after=None)])["reliability.png"].axes) == 1


def card(method="mudpt", has_validation=True, **options):
    metrics = {"accuracy": 87.0, "mean_class_accuracy": 87.0, "classes": {"a": [87, 100]}}
    tests = {"test": {**metrics, "calibration": calibrated(8.0, 4.0, **options)}}
    stored = {"temperature": 1.5, "scores": [[1.0, 2.0], [3.0]]} if has_validation else None
    zero_shot = {"test": {**metrics, "calibration": calibrated(12.0, None)}}
    made = result_of_card(method=method, metrics=tests, zero_shot=zero_shot, calibration=stored)
    return model_card(made, "openai/clip-vit-base-patch16", None)


def test_a_card_holds_the_errors_and_the_code_for_calibrated_answers():
    text = str(card())
    header, row, sets_header, *sets = cells(text, "Calibration")
    assert header == ["test set", "zero-shot", "with the adapter", "with the adapter, calibrated", "by chance"]
    assert row == ["test", "12.0 %", "8.0 %", "4.0 %", "3.0 %"]
    assert sets_header == ["stated coverage", "sets that hold the right class", "classes in a set"]
    assert sets == [["90 %", "91.0 %", "1.25"], ["95 %", "96.0 %", "2.00"]]
    assert '# calibrated\nclassifier.predict_sets(["picture.jpg"], coverage=0.95)' in text
    assert "the 3 validation pictures" in text


def test_the_card_of_a_run_without_validation_pictures_says_so():
    made = card(has_validation=False, held=())
    assert "no validation pictures to calibrate on" in str(made)
