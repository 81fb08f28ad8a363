"""The experiments of a sweep."""

from pathlib import Path

import pytest

from peft_mudpt.lab.identity import what_was_asked
from peft_mudpt.lab.run_folder import hold
from peft_mudpt.lab.schema import write_result
from peft_mudpt.lab.sweep import Run, Sweep
from tests.lab.report.made_results import result
from tests.lab.test_experiment import save_pictures


def sweep(folder, **fields) -> Sweep:
    defaults = {"protocols": ["few-shot"], "datasets": [], "methods": ["mudpt"], "shots": [1, 4], "seeds": [1, 2]}
    return Sweep(output_dir=folder, **{**defaults, **fields})


def asked(runs, *names):
    return [tuple(getattr(run.arguments(), name) for name in names) for run in runs]


def finish(run: Run, accuracy=0.0, **fingerprints) -> None:
    """Write the files of a finished run."""
    asked = what_was_asked(run.arguments())
    with hold(run.folder, {**asked, **fingerprints}):
        write_result(run.folder, {**result(asked["method"], accuracy), "arguments": asked})


def test_every_method_runs_with_every_number_of_shots_and_every_seed(tmp_path):
    runs = sweep(tmp_path, methods=["mudpt", "lora"]).runs({})
    assert asked(runs, "method", "shots", "seed") == [
        (method, shots, seed) for method in ("mudpt", "lora") for shots in (1, 4) for seed in (1, 2)
    ]
    assert len({run.folder for run in runs}) == len(runs)


def test_other_protocols_take_the_largest_number_of_shots(tmp_path):
    runs = sweep(tmp_path, protocols=["base-to-new"]).runs({})
    assert asked(runs, "protocol", "shots", "seed") == [("base-to-new", 4, 1), ("base-to-new", 4, 2)]


def test_a_method_that_is_not_trained_runs_with_one_number_of_shots(tmp_path):
    assert asked(sweep(tmp_path, methods=["zero_shot"]).runs({}), "shots", "seed") == [(4, 1), (4, 2)]


def test_runs_of_several_data_sets_have_separate_folders(tmp_path):
    runs = sweep(tmp_path, datasets=["plain", "dark"], shots=[1], seeds=[1]).runs({})
    assert asked(runs, "dataset") == [("plain",), ("dark",)]
    assert [run.folder.relative_to(tmp_path).parts[:2] for run in runs] == [
        ("few-shot", "plain"),
        ("few-shot", "dark"),
    ]


@pytest.mark.parametrize("name", ["..", ".", "", "../elsewhere", "/elsewhere", "a\\b"])
def test_a_data_set_whose_name_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError) as error:
        sweep(tmp_path, datasets=[name])
    assert "folder" in str(error.value) and repr(name) in str(error.value)


@pytest.mark.parametrize("name", ["..", "../mine", "/mine", "somebody/pets"])
def test_runs_on_a_data_set_of_the_hub_stay_in_the_folder(tmp_path, name):
    for run in sweep(tmp_path, flags=["--dataset_name", name]).runs({}):
        assert run.folder.resolve().relative_to(tmp_path.resolve()).parts[0] == "few-shot"
        assert run.folder.relative_to(tmp_path).parts[2] == "mudpt"


def test_flags_reach_every_run(tmp_path):
    runs = sweep(tmp_path, flags=["--max_train_steps", "7"], learning_rate_factors=[1.0, 2.0])
    assert {steps for (steps,) in asked([*runs.runs({}), *runs.search_runs()], "max_train_steps")} == {7}


@pytest.mark.parametrize(
    ("protocol", "flags"), [("few-shot", ["--coop_root", "."]), ("cross-dataset", ["--targets", "plain"])]
)
def test_flags_may_need_the_data_set_or_the_protocol_of_the_sweep(tmp_path, protocol, flags):
    runs = sweep(tmp_path, protocols=[protocol], datasets=["dtd"], flags=flags).runs({})
    assert set(asked(runs, "protocol", "dataset")) == {(protocol, "dtd")}


def test_learning_rates_are_searched_on_validation_pictures_with_one_seed_and_the_most_shots(tmp_path):
    runs = sweep(tmp_path, methods=["zero_shot", "maple"], learning_rate_factors=[1.0, 2.0]).search_runs()
    assert asked(runs, "method", "learning_rate", "shots", "seed", "evaluate_on") == [
        ("maple", 0.0035, 4, 1, "validation"),
        ("maple", 0.007, 4, 1, "validation"),
    ]


def test_one_factor_needs_no_search(tmp_path):
    assert sweep(tmp_path, learning_rate_factors=[2.0]).search_runs() == []
    assert asked(sweep(tmp_path, learning_rate_factors=[2.0]).runs({}), "learning_rate")[0] == (0.002,)


def test_the_learning_rates_are_those_of_the_optimizer_that_the_flags_name(tmp_path):
    runs = sweep(tmp_path, learning_rate_factors=[1.0, 3.0], flags=["--optimizer", "sgd"]).search_runs()
    assert asked(runs, "learning_rate") == [(0.0025,), (0.0075,)]


@pytest.mark.parametrize(("accuracies", "chosen"), [((50.0, 70.0, 60.0), 0.003), ((70.0, 70.0, 60.0), 0.001)])
def test_the_learning_rate_with_the_best_validation_accuracy_is_used_throughout(tmp_path, accuracies, chosen):
    plan = sweep(tmp_path, learning_rate_factors=[1.0, 3.0, 10.0])
    for run, accuracy in zip(plan.search_runs(), accuracies):
        finish(run, accuracy)
    assert set(asked(plan.runs(plan.chosen_learning_rates()), "learning_rate")) == {(chosen,)}


def test_the_remarks_of_a_search_name_classes_without_validation_pictures_once(tmp_path):
    folder = save_pictures(tmp_path / "pictures", per_class=10)
    for i in range(1, 10):
        (Path(folder) / "hollow_purple_arrow" / f"{i}.png").unlink()
    fields = {"protocols": ["few-shot", "base-to-new"], "methods": ["coop", "mudpt"], "flags": ["--train_dir", folder]}
    remarks = sweep(tmp_path, learning_rate_factors=[1.0, 3.0], **fields).check_data()
    (remark,) = (remark for remark in remarks if "validate" in remark)
    assert remark.startswith("pictures: ") and remark.endswith(": hollow purple arrow")
    assert sweep(tmp_path, **fields).check_data() == []


def test_without_a_search_result_no_learning_rate_is_chosen(tmp_path):
    with pytest.raises(RuntimeError, match="few-shot / None / mudpt has no result"):
        sweep(tmp_path, learning_rate_factors=[1.0, 3.0]).chosen_learning_rates()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ["mudp"]}, "'mudp'"),
        ({"seeds": []}, "seeds is empty"),
        ({"shots": [0]}, "--shots=0 "),
        ({"flags": ["--seed", "3"]}, "--seed .*give --seeds"),
        ({"flags": ["--evaluate_on=validation"]}, "--evaluate_on .*leave it out"),
        ({"flags": ["--learning-rate", "3"]}, "--learning_rate .*give --learning_rate_factors"),
        ({"methods": ["mudpt", "mudpt"]}, r"methods \['mudpt', 'mudpt'\]"),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        sweep(tmp_path / "lab", **fields)
    assert not (tmp_path / "lab").exists()


def test_runs_resume_from_their_last_checkpoint(tmp_path):
    assert set(asked(sweep(tmp_path).runs({}), "resume_from_checkpoint")) == {("latest",)}
