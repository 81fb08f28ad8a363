"""Calibration in a run: on which pictures, what its result holds, and what a classifier of the run knows."""

import json

import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import multiclass_calibration_error

from peft_mudpt import MuDPTClassifier
from peft_mudpt.calibration.calibration import Calibration
from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.calibration import calibration_lines, error_in_words, measured, note_on_calibration
from peft_mudpt.lab.run import run
from peft_mudpt.lab.run_classifier import load_classifier
from peft_mudpt.lab.schema import read_result
from tests.lab.finished_runs import runs_in
from tests.lab.test_experiment import save_pictures


# which the embedded CLIP confuses, so that there is a temperature
CLASSES = ("filled red star", "hollow red star", "filled red heart", "hollow red heart")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return {
        "train_dir": save_pictures(folder / "train", 12, classes=CLASSES),
        "test_dir": save_pictures(folder / "test", 5, seed=4, classes=CLASSES),
    }


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    """The folder of a finished run of each method."""
    return runs_in(tmp_path_factory.mktemp("runs"), **folders, validation_shots=6)


def logits_of(classifier, result, part, folder):
    """The logits of the pictures that a result names, and their labels."""
    items = (
        result["items"][part]
        if part != "test"
        else [item for found in result["metrics"]["test"]["predictions"].values() for item in found]
    )
    images = [Image.open(f"{folder}/{item}") for item in items]
    labels = torch.tensor([result["class_names"].index(item.split("/")[0].replace("_", " ")) for item in items])
    with torch.no_grad():
        pixels = classifier.image_processor(images, return_tensors="pt").pixel_values
        return classifier(pixels).logits, labels


METHODS = ["coop", "lora", "linear_probe", "tip_adapter", "zero_shot"]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_measures_what_its_classifier_measures(method, finished, folders):
    result, classifier = read_result(finished(method)), load_classifier(finished(method))
    assert len(result["items"]["validation"]) == 24
    assert not set(result["items"]["validation"]) & set(result["items"]["train"])
    held_out = Calibration.fit(*logits_of(classifier, result, "validation", folders["train_dir"]))
    assert result["calibration"]["temperature"] == pytest.approx(held_out.temperature, rel=1e-3)
    for found, expected in zip(result["calibration"]["scores"], held_out.scores, strict=True):
        assert found == pytest.approx(expected, abs=0.002)
    logits, labels = logits_of(classifier, result, "test", folders["test_dir"])
    found = result["metrics"]["test"]["calibration"]
    for name, t in (("before", 1.0), ("after", held_out.temperature)):
        expected = multiclass_calibration_error((logits / t).softmax(dim=-1), labels, num_classes=4, n_bins=20)
        assert found[name]["error"] == pytest.approx(100 * expected.item(), abs=0.5)
    inside = held_out.sets(0.9)(logits)
    (tested,) = [sets for sets in found["sets"] if sets["coverage"] == 0.9]
    assert tested["held"] == pytest.approx(100 * inside[range(20), labels].double().mean().item(), abs=5)
    assert tested["classes"] == pytest.approx(inside.sum(dim=-1).double().mean().item(), abs=0.05)


def test_a_run_keeps_the_probabilities_of_the_pictures_that_it_got_wrong(finished, folders):
    result, classifier = read_result(finished("zero_shot")), load_classifier(finished("zero_shot"))
    logits, labels = logits_of(classifier, result, "test", folders["test_dir"])
    metrics, names, temperature = result["metrics"]["test"], result["class_names"], classifier.temperature()
    assert metrics["mistakes_temperature"] == temperature
    percent = 100 * (logits / temperature).softmax(dim=-1)
    items = [(name, item) for name, found in metrics["predictions"].items() for item in found]
    kept = {(name, item): thought for name, found in metrics["mistakes"].items() for item, thought in found.items()}
    assert {*kept} == {place for i, place in enumerate(items) if logits[i].argmax() != labels[i]} != set()
    for place, thought in kept.items():
        expected = dict(zip(names, percent[items.index(place)].tolist()))
        assert thought == {name: pytest.approx(expected[name], abs=0.1) for name in thought}


@pytest.mark.parametrize("method", METHODS)
def test_the_classifier_of_a_run_is_calibrated(method, finished):
    stored = read_result(finished(method))["calibration"]
    assert load_classifier(finished(method)).calibration.as_dict() == stored


@pytest.mark.parametrize(("method", "file"), [("coop", "adapter_config.json"), ("lora", "adapter_classes.json")])
def test_an_adapter_remembers_the_classes_and_the_calibration_of_its_run(method, file, finished):
    stored, result = json.loads((finished(method) / file).read_text()), read_result(finished(method))
    assert stored["calibration"] == result["calibration"]
    classifier = MuDPTClassifier.from_pretrained(finished(method))
    assert classifier.calibration.as_dict() == result["calibration"]
    assert classifier.class_names == result["class_names"]


@pytest.mark.parametrize(
    "other", [{"class_names": ["red star", "blue heart", "cross", "arrow"]}, {"template": "a {}"}]
)
def test_other_classes_or_texts_are_not_calibrated(other, finished):
    for method in ("coop", "lora", "zero_shot"):
        assert load_classifier(finished(method), **other).calibration is None


def test_calibration_changes_neither_accuracy_nor_weights(folders, finished, tmp_path, fresh_accelerator, monkeypatch):
    monkeypatch.setattr("peft_mudpt.lab.classification.plan.calibrate_task", lambda *_, **__: None)
    options = {"shots": 2, "max_train_steps": 2, "validation_shots": 6, "output_dir": str(tmp_path / "run")}
    plain = run(Arguments(**folders, method="coop", **options))
    calibrated = read_result(finished("coop"))
    assert plain["calibration"] is None and plain["metrics"]["test"]["calibration"]["after"] is None
    for result in (plain, calibrated):
        for field in ("calibration", "mistakes", "mistakes_temperature"):
            result["metrics"]["test"].pop(field)
    assert plain["metrics"] == calibrated["metrics"] and plain["loss"] == calibrated["loss"]
    weights = [folder / "adapter_model.safetensors" for folder in (tmp_path / "run", finished("coop"))]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_without_a_picture_to_spare_says_so(folders, tmp_path, fresh_accelerator, capsys):
    options = {"shots": 12, "max_train_steps": 2, "output_dir": str(tmp_path / "run")}
    result = run(Arguments(**folders, method="coop", **options))
    assert result["calibration"] is None and result["items"]["validation"] == []
    printed = capsys.readouterr().out
    assert "not calibrated, because no picture is left to validate on; --validation_shots" in printed
    assert "calibration error" in printed and "temperature" not in printed and "sets at" not in printed


def test_a_run_that_is_tested_on_validation_pictures_is_not_calibrated_on_them(
    folders, tmp_path, fresh_accelerator, capsys
):
    options = {"evaluate_on": "validation", "shots": 2, "max_train_steps": 2, "output_dir": str(tmp_path / "run")}
    result = run(Arguments(**folders, method="coop", **options))
    assert result["items"]["validation"] and result["calibration"] is None
    assert "validation_shots" not in capsys.readouterr().out


def test_new_classes_get_the_temperature_but_no_sets(folders, tmp_path, fresh_accelerator):
    options = {"protocol": "base-to-new", "shots": 2, "max_train_steps": 2, "output_dir": str(tmp_path / "run")}
    result = run(Arguments(**folders, method="coop", validation_shots=8, **options))
    base, new = (result["metrics"][name]["calibration"] for name in ("base", "new"))
    assert base["sets"] and new["sets"] == [] and len(result["calibration"]["scores"]) == 2
    assert base["temperature"] == new["temperature"] == result["calibration"]["temperature"]
    # as `predict` answers, which calibrates the classes of the run only
    temperatures = [result["metrics"][name]["mistakes_temperature"] for name in ("base", "new")]
    assert temperatures == [result["calibration"]["temperature"], None]


def test_a_calibration_that_makes_other_pictures_worse_says_why():
    sure, labels = 4 * torch.eye(2).repeat(10, 1), torch.tensor([0, 1] * 10)
    of_sure = measured(sure, labels, Calibration(3.0, [[1.0], [1.0]]))
    assert of_sure["after"]["error"] > of_sure["before"]["error"]
    (note,) = note_on_calibration(of_sure)
    assert "validation pictures of the run" in note
    of_chance = measured(sure, labels.flip(0), Calibration(3.0, [[1.0], [1.0]]))
    assert of_chance["after"]["error"] < of_chance["before"]["error"] and note_on_calibration(of_chance) == []
    assert note_on_calibration(measured(sure, labels, None)) == []


def test_only_coverages_with_enough_pictures_are_tested():
    logits, labels = torch.eye(3).repeat(4, 1), [0, 1, 2] * 4
    calibration = Calibration.fit(logits[:10], [0, 1, 2] * 3 + [1])
    tested = measured(logits, labels, calibration)["sets"]
    assert [sets["coverage"] for sets in tested] == [0.9] and tested[0]["held"] == 100


def test_the_lines_say_what_was_measured():
    logits, labels = 4 * torch.eye(3).repeat(13, 1), [0, 1, 2] * 12 + [0, 1, 0]
    found = measured(logits, labels, Calibration.fit(logits, labels))
    test = {"accuracy": 90.0, "classes": dict.fromkeys("abc"), "calibration": found}
    lines = dict(calibration_lines({"test": test, "old": {}, "unknown": None}))
    before, after = found["before"]["error"], found["after"]["error"]
    assert lines["calibration error"].startswith(
        f"{before:.1f} %, calibrated {after:.1f} % (temperature {found['temperature']:.2f}) on test; "
    )
    assert lines["sets at 95 %"] == "97.4 % hold the right class on test; 1.00 of 3 classes on average"
    assert len(lines) == 2
    most = calibration_lines({"test": {**test, "accuracy": 99.5}})[-1]
    assert most[0] == "sets at 95 %", "39 validation pictures are too few for 99 %"


@pytest.mark.parametrize(("classes", "size", "useless"), [(10, 5.1, True), (10, 5.0, False), (2, 1.9, False)])
def test_sets_that_hold_more_than_half_of_the_classes_are_said_to_be_of_no_use(classes, size, useless):
    found = measured(4 * torch.eye(classes), [*range(classes)], None)
    found["sets"] = [{"coverage": 0.9, "held": 91.0, "classes": size, "empty": 0.0}]
    test = {"accuracy": 80.0, "classes": dict.fromkeys(range(classes)), "calibration": found}
    assert ("too many to be of use" in dict(calibration_lines({"test": test}))["sets at 90 %"]) == useless


def test_an_error_is_compared_with_chance_in_words():
    right, wrong = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])  # 88.1 % sure
    as_sure = measured(torch.stack([right] * 88 + [wrong] * 12), [0] * 100, None)["before"]
    too_sure = measured(torch.stack([right] * 50 + [wrong] * 50), [0] * 100, None)["before"]
    assert error_in_words(as_sure).startswith("as good as 100 pictures can show: perfect probabilities would have 2.")
    assert error_in_words(too_sure).endswith("these are 88.1 % sure on average, and right in 50.0 %")
