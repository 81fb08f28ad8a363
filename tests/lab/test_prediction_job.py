"""Jobs that classify many pictures: workers, kills, and several processes."""

import signal
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoProcessor, CLIPModel

from peft_mudpt import MuDPTClassifier, demo
from peft_mudpt.lab import prediction_job, predictions
from peft_mudpt.lab.data.unlabeled import PictureFiles
from peft_mudpt.lab.prediction_job import Written, predict_to_file
from peft_mudpt.lab.processes import stopped_by_signals
from peft_mudpt.lab.question import Question
from peft_mudpt.lab.run_folder import lock
from tests.conftest import in_two_processes


NAMES = ["filled red star", "hollow blue heart", "filled green circle"]

pytestmark = pytest.mark.usefixtures("fresh_accelerator", "small_parts")


@pytest.fixture
def small_parts(monkeypatch):
    for room in (predictions, prediction_job):
        monkeypatch.setattr(room, "PART_SIZE", 4)


@pytest.fixture(scope="module")
def classifier():
    model, processor = CLIPModel.from_pretrained(demo.MODEL_PATH), AutoProcessor.from_pretrained(demo.MODEL_PATH)
    return MuDPTClassifier(model.eval(), NAMES, "{}.", processor.tokenizer, processor.image_processor)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twenty pictures, of which two cannot be read."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    files = [folder / f"{i:02}.png" for i in range(20)]
    for i, file in enumerate(files):
        demo.paint(NAMES[i % 3], "sunset", rng).save(file)
    files[5].write_text("no picture")
    files[6].unlink()
    return PictureFiles(map(str, files))


@pytest.fixture(scope="module")
def expected(classifier, pictures, tmp_path_factory):
    """What an undisturbed job in one process writes."""
    with pytest.MonkeyPatch.context() as patch:
        for room in (predictions, prediction_job):
            patch.setattr(room, "PART_SIZE", 4)
        output = tmp_path_factory.mktemp("expected") / "x.csv"
        assert run(classifier, pictures, output) == Written(2, before=False, note=output.with_name("x.csv.json"))
    return output.read_bytes()


def run(classifier, pictures, output, **options):
    return predict_to_file(
        classifier, pictures, output, **{"question": Question(2), "batch_size": 3, "num_workers": 0, **options}
    )


def test_a_row_holds_what_the_classifier_predicts(classifier, pictures, expected):
    rows = [line.replace('"', "").split(",") for line in expected.decode().splitlines()[1:]]
    assert [row[0] for row in rows] == list(pictures)
    assert [bool(row[1]) for row in rows] == [i in (5, 6) for i in range(20)]
    for i in (0, 7, 19):
        (best,) = classifier.top_k([pictures[i]], 2)
        assert rows[i][2::2] == [name for name, _ in best]
        assert [float(value) for value in rows[i][3::2]] == pytest.approx([p for _, p in best], rel=1e-4)


def test_workers_change_no_byte(classifier, pictures, expected, tmp_path):
    run(classifier, pictures, tmp_path / "x.csv", num_workers=2)
    assert (tmp_path / "x.csv").read_bytes() == expected


def test_a_finished_job_is_not_begun_again(classifier, pictures, expected, tmp_path, monkeypatch):
    run(classifier, pictures, tmp_path / "x.csv")
    monkeypatch.setattr(prediction_job, "classify", lambda *arguments: pytest.fail("classified again"))
    assert run(classifier, pictures, tmp_path / "x.csv") == Written(2, before=True, note=tmp_path / "x.csv.json")
    assert {path.name for path in tmp_path.iterdir()} == {"x.csv", "x.csv.json"}


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def killed_after(number: int, error: type[BaseException] = Killed):
    """A `classify` that is killed before it gives a further batch."""
    classify = prediction_job.classify

    def killed(*arguments):
        for i, batch in enumerate(classify(*arguments)):
            if i == number:
                raise error
            yield batch

    return killed


@pytest.mark.parametrize("workers", [0, 2])
def test_a_job_that_is_killed_again_and_again_writes_every_row_once(
    classifier, pictures, expected, tmp_path, monkeypatch, workers
):
    for batches in (1, 3, 3, 5):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(prediction_job, "classify", killed_after(batches))
            run(classifier, pictures, tmp_path / "x.csv", num_workers=workers)
        assert not (tmp_path / "x.csv").exists()
    run(classifier, pictures, tmp_path / "x.csv", num_workers=workers)
    assert (tmp_path / "x.csv").read_bytes() == expected


def test_an_interrupted_job_says_how_to_go_on(classifier, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_job, "classify", killed_after(3, KeyboardInterrupt))
    with pytest.raises(
        KeyboardInterrupt, match="x.csv.partial keeps .* 4 of 20 pictures, and the same command goes on"
    ):
        run(classifier, pictures, tmp_path / "x.csv")


def test_an_output_that_another_process_writes_is_refused(classifier, pictures, tmp_path):
    with lock(tmp_path / "x.csv.partial"), pytest.raises(ValueError, match="Another process .*is using .*x.csv"):
        run(classifier, pictures, tmp_path / "x.csv")


@pytest.mark.parametrize("size", [0, 5])
def test_a_batch_size_that_is_no_part_of_a_part_is_refused(classifier, pictures, tmp_path, size):
    with pytest.raises(ValueError, match=f"--batch_size {size} "):
        run(classifier, pictures, tmp_path / "x.csv", batch_size=size)
    assert not any(tmp_path.iterdir())


def test_a_path_that_is_not_utf_8_is_refused_before_anything_is_written(classifier, tmp_path):
    with pytest.raises(ValueError, match="not UTF-8.*udcff.png"):
        run(classifier, PictureFiles([b"\xff.png".decode("utf-8", "surrogateescape")]), tmp_path / "x.csv")
    assert not any(tmp_path.iterdir())


def _one_of_two(rank: int, classifier, pictures, output: Path) -> None:
    for before in (False, True):
        written = run(classifier, pictures, output)
        assert written == (Written(2, before, output.with_name("x.csv.json")) if rank == 0 else None)


def test_two_processes_write_the_rows_of_one_also_after_a_kill_of_one(
    classifier, pictures, expected, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(prediction_job, "classify", killed_after(3))
        run(classifier, pictures, tmp_path / "x.csv")
    in_two_processes(_one_of_two, classifier, pictures, tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes() == expected
    assert {path.name for path in tmp_path.iterdir()} == {"x.csv", "x.csv.json"}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_as_ctrl_c_does_and_a_second_one_is_ignored(name):
    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(KeyboardInterrupt):
        with stopped_by_signals():
            try:
                signal.raise_signal(getattr(signal, name))
            finally:
                signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(getattr(signal, name)) == before
