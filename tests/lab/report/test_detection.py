"""Tables, plots and cards of detection show the numbers of the results."""

import pytest
from PIL import Image

from peft_mudpt.lab.report.card import model_card
from peft_mudpt.lab.report.detection import plot_precision_recall
from peft_mudpt.lab.report.page.rendering import html_page
from peft_mudpt.lab.report.plots import plot_all
from peft_mudpt.lab.report.tables import markdown_report
from peft_mudpt.lab.schema import FOLDER
from tests.lab.report.made_results import cells, result


def measured(value: float) -> dict:
    precision = {"cat": [100.0] * 51 + [value] * 50, "dog": None}
    classes = {"cat": value, "dog": None}
    return {
        "map": value,
        "ap50": value + 20,
        "ap75": value / 2,
        "pictures": 9,
        "classes": classes,
        "precision": precision,
    }


def detection(method="sdpt", value=40.0, **changes) -> dict:
    metrics = {"test": measured(value)}
    summary = {name: metrics["test"][name] for name in ("map", "ap50", "ap75")}
    fields = {"metrics": metrics, "zero_shot": {"test": measured(30.0)}, "summary": summary}
    fields |= {"template": None, "template_after_prompts": None, "dataset": "cells", "task": "object-detection"}
    trained = {"optimizer": None, "learning_rate": None} if method == "zero_shot" else {}
    return result(method, **{**fields, **trained, **changes})


RUNS = [
    detection(value=40.0, seed=1),
    detection(value=50.0, seed=2),
    detection(value=20.0, shots=1),
    detection("full", 60.0),
    detection("zero_shot", 30.0),
]


def test_the_report_has_map_by_shots_overlaps_and_classes():
    report = markdown_report(RUNS, {})
    assert "mAP in %" in report and "Accuracy" not in report
    assert cells(report, "Few-shot: all classes, by shots per class")[1:] == [
        ["full (1 of 2 seeds)", "", "**60.0**"],
        ["sdpt (1 to 2 of 2 seeds)", "20.0", "45.0 ± 7.1"],
        ["zero_shot", "**30.0**", "30.0"],
    ]
    overlaps = cells(report, "Overlaps, 4 shots")
    assert overlaps[0] == ["method", "AP50", "AP75", "mAP"]
    assert overlaps[1] == ["full (1 of 2 seeds)", "**80.0**", "**30.0**", "**60.0**"]
    classes = cells(report, "Classes, 4 shots")
    assert classes[0] == ["method", "cat", "dog"] and classes[1][1:] == ["**60.0**", "–"]


def test_curves_of_precision_are_means_over_seeds_and_known_classes():
    figures = plot_all(RUNS)
    assert set(figures) == {"overview.png", "map_by_parameters.png", "precision_recall.png"}
    (axes,) = figures["precision_recall.png"].axes
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    assert lines["sdpt"][[0, 50, 51, 100]].tolist() == [[0, 100], [0.5, 100], [0.51, 45], [1, 45]]
    assert figures["overview.png"].axes[0].get_ylabel() == "mAP, %"


def test_a_run_has_a_page_of_its_tables_and_plots():
    run = {FOLDER: "outputs/cells", **detection()}
    page = html_page([run], {"cells": {"precision_recall.png": plot_precision_recall([run])}})
    assert "Results of 1 run" in page and "Plot: precision recall." in page and "Single runs" not in page
    assert "<h3>Overlaps, 4 shots</h3>" in page and "<td><strong>40.0</strong></td>" in page


def test_the_pictures_of_the_emphasized_method_are_shown(tmp_path):
    runs = []
    for method, color in (("full", "red"), ("sdpt", "blue")):
        (tmp_path / method).mkdir()
        Image.new("RGB", (60, 40), color).save(tmp_path / method / "detections.png")
        runs.append({**detection(method), "folder": str(tmp_path / method)})
    (axes,) = plot_all(runs)["detections.png"].axes
    assert axes.get_title().startswith("sdpt") and axes.images[0].get_array()[0, 0].tolist() == [0, 0, 1]


def test_results_of_both_tasks_make_a_section_each():
    report = markdown_report([*RUNS, result("mudpt", dataset="cells")], {})
    assert "## cells, object detection" in report and "## cells, image classification" in report


def test_means_over_data_sets_are_of_one_task_and_each_data_set_has_the_caveat_of_its_world():
    runs = [make(dataset=name) for name in ("faded", "plain") for make in (detection, result)]
    report = markdown_report(runs, {})
    for task in ("image classification", "object detection"):
        assert f"## Few-shot: mean over 2 data sets, some/clip, {task}" in report or f"data sets, {task}" in report
    assert report.count("Data: `faded`.") == 2 and "tiny detector" in report and "tiny CLIP" in report


@pytest.mark.parametrize("hub", [None, "me/cells"])
@pytest.mark.parametrize("method", ["sdpt", "lora"])
def test_the_card_tells_average_precision_before_and_after_and_how_to_load(method, hub):
    card = str(model_card(detection(method), "IDEA-Research/grounding-dino-tiny", hub))
    assert (
        "pipeline_tag: zero-shot-object-detection" in card and "base_model: IDEA-Research/grounding-dino-tiny" in card
    )
    assert cells(card, "Average precision")[1:4] == [
        ["mAP", "30.0", "40.0"],
        ["AP50", "50.0", "60.0"],
        ["AP75", "15.0", "20.0"],
    ]
    assert ["dog", "–", "–"] in cells(card, "Average precision")
    compile(card.split("```python\n")[1].split("```")[0], "card", "exec")
    assert "FusionDetector.from_pretrained(adapter" in card and "detections.png" in card
    assert ("class_names = json.load" in card) == (method == "lora")  # whose config holds no classes
