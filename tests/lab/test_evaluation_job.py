"""Testing what a run left on other pictures."""

import json
from pathlib import Path

import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, recall_score

from peft_mudpt.lab.evaluation_job import evaluate_saved
from peft_mudpt.lab.run_classifier import load_classifier
from tests.lab.finished_runs import runs_in
from tests.lab.test_calibration import CLASSES
from tests.lab.test_experiment import save_pictures


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pictures to train on, with some to validate on, and harder ones of other styles."""
    folder = tmp_path_factory.mktemp("pictures")
    return {
        "mine": save_pictures(folder / "mine", 12, classes=CLASSES),
        "others": save_pictures(folder / "others", 6, style="scribbled", seed=5, classes=CLASSES[1:]),
    }


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    """The folder of a finished run of each method."""
    return runs_in(tmp_path_factory.mktemp("runs"), train_dir=folders["mine"], validation_shots=5)


@pytest.mark.parametrize("method", ["mudpt", "lora", "linear_probe", "zero_shot"])
def test_the_numbers_are_those_of_the_predictions_of_the_loaded_classifier(finished, folders, method):
    adapter, classifier = finished(method), load_classifier(finished(method)).eval()
    files = sorted(Path(folders["others"]).rglob("*.png"))
    labels = [file.parent.name.replace("_", " ") for file in files]
    pictures = [Image.open(file) for file in files]
    predicted = classifier.predict(pictures)
    assert predicted != labels, "the pictures must be hard"

    found = evaluate_saved(adapter, folders["others"])
    assert found.metrics["accuracy"] == pytest.approx(100 * accuracy_score(labels, predicted))
    balanced = recall_score(labels, predicted, labels=CLASSES[1:], average="macro")
    assert found.metrics["mean_class_accuracy"] == pytest.approx(100 * balanced)
    highest = classifier.predict_proba(pictures).max(dim=-1).values.tolist()
    wanted = {
        file.relative_to(folders["others"]).as_posix(): (true, guess, pytest.approx(p, abs=1e-5))
        for file, true, guess, p in zip(files, labels, predicted, highest)
        if true != guess
    }
    assert {mistake.picture: tuple(mistake[1:]) for mistake in found.mistakes} == wanted
    probabilities = [mistake.probability for mistake in found.mistakes]
    assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.parametrize("calibrated", [None, False])
def test_the_calibration_of_the_run_is_tested_and_used_unless_the_user_says_otherwise(finished, folders, calibrated):
    adapter, classifier = finished("mudpt"), load_classifier(finished("mudpt")).eval()
    found = evaluate_saved(adapter, folders["others"], calibrated=calibrated)
    assert found.calibrated == (calibrated is None)
    assert found.metrics["calibration"]["temperature"] == pytest.approx(classifier.temperature())
    mistake = found.mistakes[0]
    picture = Image.open(f"{folders['others']}/{mistake.picture}")
    assert classifier.top_k([picture], 1, calibrated=found.calibrated)[0] == [
        (mistake.predicted, pytest.approx(mistake.probability, abs=1e-5))
    ]


def test_a_test_on_pictures_that_the_run_has_learned_from_says_so(finished, folders):
    notes = evaluate_saved(finished("mudpt"), folders["mine"]).notes
    assert [note.split(" of the run")[0] for note in notes] == [
        "8 of these pictures were training pictures",
        "20 of these pictures were validation pictures",
    ]


def test_other_classes_can_be_given_to_a_method_that_reads_their_names(finished, tmp_path):
    names = ["hollow purple arrow", "filled green cross"]
    folder = save_pictures(tmp_path / "new", 1, classes=names)
    found = evaluate_saved(finished("mudpt"), folder, class_names=names)
    assert found.class_names == names and found.metrics["classes"].keys() == {*names}


def test_all_pictures_that_cannot_be_read_are_named(finished, tmp_path):
    folder = Path(save_pictures(tmp_path / "new", 3, classes=CLASSES[:1]))
    for name in ("0.png", "2.png"):
        (folder / CLASSES[0].replace(" ", "_") / name).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"2 of 3 pictures (.|\n)*/0.png(.|\n)*/2.png"):
        evaluate_saved(finished("mudpt"), folder)


def test_the_script_prints_what_it_finds_and_writes_it_to_files_that_it_does_not_replace(
    finished, folders, tmp_path, run_script
):
    output, confusion = tmp_path / "found.json", tmp_path / "confusion.csv"
    call = ["evaluate.py", finished("mudpt"), folders["others"], "--output", output, "--confusion_matrix", confusion]
    done = run_script(*call)
    assert done.code == 0
    found = json.loads(output.read_text())
    low, high = found["interval"]
    accuracy = found["metrics"]["accuracy"]
    assert f"{accuracy:.1f} % of 18 pictures (95 % interval: {low:.1f} to {high:.1f} %)" in done.stdout
    assert all(mistake["picture"] in done.stdout for mistake in found["mistakes"][:20])
    assert confusion.read_text().count("\n") == 1 + len(CLASSES)
    for file in (output, confusion):
        file.write_text("mine")
    refused = run_script(*call)
    assert refused.code == 2 and f"--output {output} exists" in refused.stderr and output.read_text() == "mine"
    assert run_script(*call, "--overwrite").code == 0 and "interval" in output.read_text()


def test_the_folder_is_checked_before_an_adapter_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="FOLDER .*pictures is not a folder"):
        evaluate_saved(tmp_path / "no_adapter", tmp_path / "pictures")
