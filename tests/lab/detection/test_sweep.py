"""A comparison of methods of detection: which runs it plans, and how it chooses learning rates."""

import dataclasses

import pytest

from peft_mudpt.lab.detection.arguments import DetectionArguments
from peft_mudpt.lab.detection.methods import METHODS
from peft_mudpt.lab.detection.sweep_options import DetectionSweepOptions
from peft_mudpt.lab.identity import what_was_asked
from peft_mudpt.lab.run_folder import hold
from peft_mudpt.lab.schema import write_result
from peft_mudpt.lab.sweep_runs import known_pictures
from tests.lab.report.test_detection import detection


def sweep(folder, flags=(), **options):
    given = {"methods": "zero_shot,sdpt", "shots": "1,5", "seeds": "1,2", **options}
    return DetectionSweepOptions(output_dir=str(folder / "lab"), **given).sweep([*flags])


def finish(run, value, pictures=None) -> None:
    """Write the files of a finished run."""
    asked = what_was_asked(run.arguments())
    with hold(run.folder, asked if pictures is None else {**asked, "pictures": pictures}):
        write_result(run.folder, {**detection(asked["method"], value), "arguments": asked})


def test_each_run_has_the_flags_of_the_detection_script(tmp_path):
    runs = sweep(tmp_path).runs({})
    assert all(isinstance(run.arguments(), DetectionArguments) for run in runs)
    asked = [(own.method, own.shots, own.seed) for own in (run.arguments() for run in runs)]
    # what is not trained does not depend on shots
    assert asked == [("zero_shot", 5, seed) for seed in (1, 2)] + [("sdpt", k, s) for k in (1, 5) for s in (1, 2)]
    assert {run.folder.relative_to(tmp_path / "lab").parts[:2] for run in runs} == {("few-shot", "faded")}


def test_the_rate_with_the_best_map_on_validation_pictures_is_chosen(tmp_path):
    plan = sweep(tmp_path)
    searched = plan.search_runs()
    assert [run.arguments().evaluate_on for run in searched] == ["validation"] * 4
    for run, value in zip(searched, (10.0, 40.0, 30.0, 20.0)):
        finish(run, value)
    chosen = plan.chosen_learning_rates()
    assert chosen == {("few-shot", None, "sdpt"): pytest.approx(0.3 * METHODS["sdpt"].learning_rate)}
    rates = {run.arguments().learning_rate for run in plan.runs(chosen) if run.arguments().method == "sdpt"}
    assert rates == {*chosen.values()}


def test_a_finished_run_whose_boxes_changed_since_is_not_taken_for_this_run(tmp_path, data, folder):
    flags = ["--train_dir", folder, "--augmentation", "none"]
    run = sweep(tmp_path, flags, methods="zero_shot", learning_rate_factors="1").runs({})[0]
    pictures = run.arguments().experiment().select().fingerprints
    finish(run, 10.0, pictures)
    assert run.is_finished(known_pictures())
    changed = {name: {**items} for name, items in pictures.items()}
    changed["test"]["000.png"] = pictures["test"]["000.png"].replace("boxes", "other boxes")
    with pytest.raises(ValueError, match="test pictures: 1 labeled differently .000.png"):
        dataclasses.replace(run).is_finished(lambda experiment: changed)


def test_methods_of_classification_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'mudpt'; the known methods are zero_shot, lora, full"):
        sweep(tmp_path, methods="mudpt")
