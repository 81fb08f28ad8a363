"""Files of predictions: their parts, their rows, and to which job they belong."""

import csv
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoProcessor, CLIPModel

from peft_mudpt import Calibration, MuDPTClassifier, MuDPTConfig, demo
from peft_mudpt.lab import predictions
from peft_mudpt.lab.data.class_names import split_names
from peft_mudpt.lab.data.unlabeled import PictureFiles
from peft_mudpt.lab.predicting import Prediction
from peft_mudpt.lab.predictions import PredictionsFile, describe_job
from peft_mudpt.lab.question import Answer, Question


ODD = 'a "b",\n\u2028c.png'


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(predictions, "PART_SIZE", 4)
    monkeypatch.setattr(predictions, "PARTS_AT_ONCE", 2)


def job(**changes):
    return {"classes per picture": 2, "number of pictures": 10, "classes": ["cat", "dog"], **changes}


ANSWER = Answer([("cat", 0.75), ("dog", 0.25)])
ROWS = [Prediction(f"{i}.png", None, ANSWER) if i % 3 else Prediction(ODD, "it is gone", None) for i in range(10)]


def begun(output, **changes) -> PredictionsFile:
    """A file of predictions that is claimed for a job."""
    file = PredictionsFile(output, job(**changes))
    file.folder.mkdir(parents=True, exist_ok=True)
    file.claim()
    return file


def finish(file):
    for part in file.missing(file.parts):
        file.write(part, [ROWS[i] for i in part])
    return file.merge()


def test_a_csv_file_has_a_row_per_picture_in_order(tmp_path):
    assert finish(begun(tmp_path / "out" / "x.csv")) == 4
    with open(tmp_path / "out" / "x.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["picture", "error", "class", "probability", "class_2", "probability_2"]
    assert rows[:2] == [[ODD, "it is gone", "", "", "", ""], ["1.png", "", "cat", "0.75", "dog", "0.25"]]
    assert [row[0] for row in rows] == [row.picture for row in ROWS]


def test_a_parquet_file_has_the_same_rows(tmp_path):
    assert finish(begun(tmp_path / "x.parquet")) == 4
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [(row["picture"], row["error"], row["class"]) for row in rows] == [
        (row.picture, row.error, row.answer.best[0][0] if row.answer else None) for row in ROWS
    ]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_confidence_and_sets_have_columns_if_they_are_asked_for(tmp_path, suffix):
    asked = {"least confidence": 0.5, "coverage": 0.9}
    file = PredictionsFile(tmp_path / f"x{suffix}", job(**{**asked, "number of pictures": 3}))
    file.folder.mkdir()
    file.claim()
    rows = [
        Prediction("0.png", None, ANSWER._replace(is_confident=True, classes=["cat, wild", "dog"])),
        Prediction("1.png", "it is gone", None),
        Prediction("2.png", None, ANSWER._replace(is_confident=False, classes=[])),
    ]
    file.write(range(3), rows)
    file.merge()
    if suffix == ".parquet":
        found = pq.read_table(file.output).to_pylist()
        assert [row["confident"] for row in found] == [True, None, False]
    else:
        with open(file.output, encoding="utf-8", newline="") as opened:
            found = list(csv.DictReader(opened))
        assert [row["confident"] for row in found] == ["true", "", "false"]
    assert list(found[0])[-2:] == ["confident", "set"]
    assert [row["set"] or "" for row in found] == ['"cat, wild",dog', "", ""]
    assert split_names(found[0]["set"]) == ["cat, wild", "dog"]


def test_nothing_but_the_output_and_its_note_is_left(tmp_path):
    file = begun(tmp_path / "x.csv")
    (file.folder / "mine").touch()
    finish(file)
    assert {path.name for path in tmp_path.iterdir()} == {"x.csv", "x.csv.json", "x.csv.partial"}
    assert [path.name for path in file.folder.iterdir()] == ["mine"]


def test_a_part_that_is_cut_at_any_byte_is_missing(tmp_path):
    file = begun(tmp_path / "x.csv")
    file.write(file.parts[1], [ROWS[i] for i in file.parts[1]])
    (written,) = file.folder.glob("part-*")
    whole = written.read_bytes()
    for length in range(len(whole)):
        written.write_bytes(whole[:length])
        assert file.missing(file.parts) == file.parts
    written.write_bytes(whole)
    assert file.missing(file.parts) == [file.parts[0], file.parts[2]]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def steps(monkeypatch, kill_at):
    """Kill at one of the moments at which files change their names or vanish; return what counts them."""
    count = []

    def counted(function):
        def call(*arguments, **options):
            count.append(function)
            if len(count) == kill_at:
                raise Killed
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    return count


def test_a_job_that_is_killed_at_any_step_ends_as_an_undisturbed_one(tmp_path, monkeypatch):
    finish(begun(tmp_path / "whole.csv"))
    expected = (tmp_path / "whole.csv").read_bytes()
    for kill_at in range(1, 100):
        output = tmp_path / f"{kill_at}.csv"
        with monkeypatch.context() as patch:
            count = steps(patch, kill_at)
            try:
                finish(begun(output))
            except Killed:
                pass
            else:
                break
        file = PredictionsFile(output, job())
        if (finished := file.claim()) is None:
            file.folder.mkdir(exist_ok=True)
            finished = finish(file)
        assert finished == 4 and output.read_bytes() == expected
        assert not any(file.folder.iterdir())
    assert 5 < kill_at == len(count) + 1 < 99


def test_a_finished_job_says_how_many_pictures_have_an_error(tmp_path):
    finish(begun(tmp_path / "x.csv"))
    assert PredictionsFile(tmp_path / "x.csv", job()).claim() == 4


def test_parts_of_another_job_are_refused_unless_they_may_be_replaced(tmp_path):
    first = begun(tmp_path / "x.csv")
    first.write(first.parts[0], ROWS[:4])
    other = PredictionsFile(tmp_path / "x.csv", job(classes=["cat", "cow"]))
    with pytest.raises(ValueError, match=r"classes: \['cat', 'dog'\] there, \['cat', 'cow'\] here.*--overwrite"):
        other.claim()
    assert first.missing(first.parts) == first.parts[1:]
    assert other.claim(overwrite=True) is None and other.missing(other.parts) == other.parts


def test_permission_to_replace_does_not_begin_the_same_job_anew(tmp_path):
    first = begun(tmp_path / "x.csv")
    first.write(first.parts[0], ROWS[:4])
    again = PredictionsFile(tmp_path / "x.csv", job())
    assert again.claim(overwrite=True) is None and again.missing(again.parts) == again.parts[1:]


def test_a_finished_output_of_another_job_is_refused_unless_it_may_be_replaced(tmp_path):
    finish(begun(tmp_path / "x.csv"))
    other = PredictionsFile(tmp_path / "x.csv", job(classes=["cat", "cow"]))
    with pytest.raises(ValueError, match="x.csv belongs to other predictions"):
        other.claim()
    assert other.claim(overwrite=True) is None and not (tmp_path / "x.csv").exists()


def test_a_file_of_the_user_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("mine")
    with pytest.raises(ValueError, match="x.csv exists.*--overwrite"):
        PredictionsFile(tmp_path / "x.csv", job()).claim()
    (tmp_path / "y.csv.json").write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="y.csv belongs to other"):
        PredictionsFile(tmp_path / "y.csv", job()).claim()
    assert {path.name for path in tmp_path.iterdir()} == {"x.csv", "y.csv.json"}


@pytest.mark.parametrize("name", ["x.txt", "x", "folder.csv"])
def test_an_output_of_another_kind_is_refused(tmp_path, name):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match=f"--output .*{name} .*.csv or .parquet"):
        PredictionsFile(tmp_path / name, job())


NAMES = ["filled red star", "hollow blue heart"]
PROCESSOR = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")


def described(tmp_path, names=NAMES, template="{}.", config=None, change=None, calibration=None, **question):
    torch.manual_seed(0)
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    os.utime(tmp_path / "0.png", (1, 1))
    model = CLIPModel.from_pretrained(demo.MODEL_PATH)
    model = get_peft_model(model, config or MuDPTConfig()).eval()
    if change:
        next(parameter for name, parameter in model.named_parameters() if change in name).data.view(-1)[0] += 1e-3
    classifier = MuDPTClassifier(model, names, template, PROCESSOR.tokenizer, PROCESSOR.image_processor)
    classifier.calibration = calibration
    return describe_job(classifier, PictureFiles([str(tmp_path / "0.png")]), Question(**{"k": 2, **question}))


def lora(alpha):
    return LoraConfig(target_modules=["q_proj"], lora_alpha=alpha)


def test_the_same_predictions_have_the_same_description(tmp_path):
    first = described(tmp_path)
    assert described(tmp_path) == first


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"names": ["filled red star", "hollow blue star"]}, {"classes", "texts"}),
        ({"template": "a {}."}, {"texts"}),
        ({"change": "vision_model"}, {"weights of the adapter or CLIP"}),
        ({"change": "mudpt"}, {"weights of the adapter or CLIP"}),
        ({"k": 1}, {"classes per picture"}),
    ],
)
def test_what_changes_predictions_changes_the_description(tmp_path, changes, differs):
    first = described(tmp_path)
    other = described(tmp_path, **changes)
    assert {name for name in first if first[name] != other[name]} == differs


def test_an_option_that_is_no_weight_changes_the_description(tmp_path):
    first = described(tmp_path, config=lora(8))
    other = described(tmp_path, config=lora(16))
    assert {name for name in first if first[name] != other[name]} == {"options of the adapter"}


CALIBRATION = Calibration(2.0, [[1.0], [0.5]])


@pytest.mark.parametrize(
    ("calibration", "question", "said"),
    [
        (None, {}, {"calibrated": False}),
        (CALIBRATION, {}, {"calibrated": True, "temperature": 2.0}),
        (CALIBRATION, {"calibrated": False}, {"calibrated": False}),
        (CALIBRATION, {"min_confidence": 0.0}, {"calibrated": True, "temperature": 2.0, "least confidence": 0.0}),
        (Calibration(None, CALIBRATION.scores), {}, {"calibrated": False}),
    ],
)
def test_the_description_says_whether_probabilities_are_calibrated(tmp_path, calibration, question, said):
    config = MuDPTConfig(class_names=NAMES, class_template="{}.")
    found = described(tmp_path, config=config, calibration=calibration, **question)
    assert {name: found[name] for name in found if name in said or name == "temperature"} == said


def test_the_scores_of_a_calibration_change_the_description_only_if_sets_are_asked_for(tmp_path):
    config = {"config": MuDPTConfig(class_names=NAMES, class_template="{}.")}
    other = Calibration(CALIBRATION.temperature, [[1.0], [0.25]])
    for question, differs in (({}, set()), ({"coverage": 0.9, "per_class": True}, {"scores of the calibration"})):
        first = described(tmp_path, **config, calibration=CALIBRATION, **question)
        second = described(tmp_path, **config, calibration=other, **question)
        assert {name for name in first if first[name] != second[name]} == differs
        assert ("coverage" in first, "coverage per class" in first) == (bool(question), bool(question))


def test_a_job_that_asked_for_more_is_another_one(tmp_path):
    finish(begun(tmp_path / "x.csv", coverage=0.9, **{"number of pictures": 0}))
    with pytest.raises(ValueError, match="coverage: 0.9 there, not given here"):
        PredictionsFile(tmp_path / "x.csv", job(**{"number of pictures": 0})).claim()
