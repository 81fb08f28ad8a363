"""The folders of runs, and their result files."""

import json
import os
import re

import pytest

from peft_mudpt.lab.run_folder import claim, drop_checkpoints, hold, lock
from peft_mudpt.lab.schema import FIELDS, LATER, NEW, read_result, read_results, write_result
from peft_mudpt.lab.storage import write_json
from peft_mudpt.lab.training.checkpoints import find_checkpoint
from tests.lab.report.made_results import counts, result


IDENTITY = {"method": "mudpt", "seed": 1, "protocol": "few-shot"}
RESULT = result(task="image-classification", objective="cross_entropy", warmup="linear")
MISSING = object()


def start(folder, identity=IDENTITY, overwrite=False):
    """Do to the folder what a run does before it trains."""
    with hold(folder, identity, overwrite):
        pass


def test_a_result_is_read_with_the_version_of_its_schema(tmp_path):
    write_result(tmp_path, {**RESULT, "dataset": "Blümchen"})
    assert read_result(tmp_path) == {**RESULT, "dataset": "Blümchen", "schema_version": 4}
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_result_of_an_earlier_version_may_lack_later_fields(tmp_path, version):
    later = {1: (*LATER, *NEW), 4: ()}.get(version, NEW)
    content = {name: value for name, value in RESULT.items() if name not in later} | {"schema_version": version}
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert read_result(tmp_path) == {**content, **dict.fromkeys(later)}
    for name in FIELDS.keys() - {*later, "schema_version"}:
        (tmp_path / "result.json").write_text(json.dumps({key: content[key] for key in content.keys() - {name}}))
        with pytest.raises(ValueError, match="result.json is damaged: .* is missing"):
            read_result(tmp_path)


@pytest.mark.parametrize("result", [{**RESULT, "extra": 1}, {k: v for k, v in RESULT.items() if k != "items"}])
def test_a_result_with_other_fields_is_not_written(tmp_path, result):
    with pytest.raises(ValueError, match="(extra|items)'\\]"):
        write_result(tmp_path, result)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{half", json.dumps({"schema_version": 99}), "[]"])
def test_a_file_that_is_not_a_result_of_this_version_is_refused(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match=r"result.json .*(JSON|schema version (99|None))"):
        read_result(tmp_path)


@pytest.mark.parametrize("field", [name for name in FIELDS if name not in ("schema_version", *LATER, *NEW)])
@pytest.mark.parametrize("value", [[None], {"a": {"b": []}}, "a", float("nan"), MISSING])
def test_a_field_with_an_unexpected_value_is_named_with_its_file(tmp_path, field, value):
    content = {**RESULT, "schema_version": 2, field: value}
    if value is MISSING:
        del content[field]
    (tmp_path / "result.json").write_text(json.dumps(content))
    if isinstance(value, str) and isinstance(RESULT[field], str):
        return  # a text is expected
    with pytest.raises(ValueError, match=f"result.json is damaged: {field} "):
        read_result(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["null", "[]", "1", '"a"', "", "[" * 100_000, '{"a":' * 100_000, "\x00", '{"schema_version": ' + "9" * 5000 + "}"],
    ids=lambda content: content[:8],
)
def test_a_file_that_holds_no_object_is_named(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match="result.json is not "):
        read_result(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"arguments": None},
        {"method_kwargs": "{half"},
        {"method_kwargs": "[" * 100_000},
        {"seed": "one"},
        {"train_dir": ["a"]},
        {"shots": True},
        {"metrics": {"test": {"accuracy": 1, "mean_class_accuracy": 1, "classes": {"cat": [1]}}}},
        {"metrics": {"test": {"accuracy": None, "mean_class_accuracy": 1, "classes": {}}}},
        {"metrics": {"test": {**counts(cat=1), "predictions": {"cat": ["a.png"]}}}},
        {"metrics": {"test": {**counts(cat=1), "mistakes": {"cat": {"a.png": {"dog": "likely"}}}}}},
        {"nearest_words": [[]]},
        {"summary": {"accuracy": float("inf")}},
    ],
    ids=str,
)
def test_a_damaged_part_of_a_field_is_found(tmp_path, changes):
    write_result(tmp_path, result(**changes))
    with pytest.raises(ValueError, match="result.json is damaged: "):
        read_result(tmp_path)


def test_results_are_found_at_any_depth(tmp_path):
    for name in ("b/c", "a"):
        write_result(tmp_path / name, {**RESULT, "dataset": name})
    assert [result["dataset"] for result in read_results(tmp_path)] == ["a", "b/c"]
    with pytest.raises(ValueError, match="nowhere.*result.json.*--output_dir"):
        read_results(tmp_path / "nowhere")


def test_an_empty_or_a_missing_folder_is_free(tmp_path):
    assert claim(tmp_path, IDENTITY) is None
    assert claim(tmp_path / "nowhere", IDENTITY) is None
    assert not (tmp_path / "nowhere").exists()


def test_a_run_may_use_its_own_folder_before_and_after_it_finishes(tmp_path):
    start(tmp_path)
    assert claim(tmp_path, IDENTITY) is None
    write_result(tmp_path, RESULT)
    assert claim(tmp_path, IDENTITY)["schema_version"] == 4


@pytest.mark.parametrize("left", ["adapter_config.json", "checkpoints/step_00000001/run.json"])
def test_a_folder_of_another_run_is_refused_with_the_difference(tmp_path, left):
    start(tmp_path)
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).touch()
    with pytest.raises(ValueError, match="another run .seed: 1 .* 2 .*--output_dir.*--overwrite_output_dir"):
        claim(tmp_path, {**IDENTITY, "seed": 2})
    with pytest.raises(ValueError, match="another run .*--output_dir.*delete this folder") as refused:
        claim(tmp_path, {**IDENTITY, "seed": 2}, of_comparison=True)
    assert "--overwrite_output_dir" not in str(refused.value)


def test_a_failed_run_without_checkpoints_does_not_block_its_folder(tmp_path):
    start(tmp_path)
    assert claim(tmp_path, {**IDENTITY, "seed": 2}) is None


def test_a_folder_that_another_process_uses_is_refused(tmp_path):
    with hold(tmp_path, IDENTITY):
        with pytest.raises(ValueError, match=f"process .*{tmp_path}"):
            start(tmp_path)
    start(tmp_path)


def test_a_run_that_finished_in_the_folder_since_it_was_claimed_is_not_overwritten(tmp_path):
    assert claim(tmp_path, IDENTITY) is None
    other = {**IDENTITY, "seed": 2}
    with hold(tmp_path, other):
        write_result(tmp_path, RESULT)
    for identity, cause in ((IDENTITY, "another run"), (other, "this run")):
        with pytest.raises(ValueError, match=cause):
            start(tmp_path, identity)
    assert claim(tmp_path, other) is not None and not (tmp_path / ".lock").exists()


def test_a_run_that_fails_before_it_saves_anything_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), hold(tmp_path / "new" / "run", IDENTITY):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_after_a_checkpoint_keeps_it(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "step_00000001" / "run.json"
    with pytest.raises(RuntimeError), hold(tmp_path, IDENTITY):
        write_json(checkpoint, IDENTITY)
        raise RuntimeError
    assert checkpoint.exists() and (tmp_path / "run.json").exists() and not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("path", ["/proc/self/run", "file/run"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"{path} cannot be written"), lock(tmp_path / path):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_process_that_uses_a_folder_is_named(tmp_path):
    with hold(tmp_path, IDENTITY):
        with pytest.raises(ValueError, match=rf"process \({os.getpid()} on "), lock(tmp_path):
            pass


FOREIGN = {
    "README.md": "my notes",
    "run.json": '{"distance": 5}',
    "result.json": "{}",
    "adapter_config.json": "{}",
    "adapter_model.safetensors": "mine",
    "checkpoints": "a file",
    "checkpoints/step_00000002/weights.pt": "mine",
    "checkpoints/step_00000002.partial/weights.pt": "mine",
    "learned.partial/weights.pt": "mine",
    "result.json.partial": "mine",
    ".lock": "my padlock",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_that_no_run_has_written_but_a_run_would_replace_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(FOREIGN[name])
    with pytest.raises(ValueError, match=re.escape(name.partition("/weights")[0])):
        start(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == FOREIGN[name]


@pytest.mark.parametrize(
    "name", ["README.md", "checkpoints/best/weights.pt", "checkpoints/notes.txt", "checkpoints.txt"]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_other_files_are_kept_whatever_the_run_does(tmp_path, name, overwrite):
    identity = {**IDENTITY, "method": "zero_shot"}  # it writes no README.md
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with hold(tmp_path, identity, overwrite):
        write_json(tmp_path / "checkpoints" / "step_00000001" / "run.json", identity)
    (tmp_path / "checkpoints" / "step_00000002.partial").mkdir()
    drop_checkpoints(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {tmp_path / name, tmp_path / "run.json"}
    assert (tmp_path / "checkpoints").exists() is name.startswith("checkpoints/")


def test_what_a_kill_leaves_incomplete_is_deleted_when_the_run_starts_again(tmp_path):
    start(tmp_path)
    write_json(tmp_path / "checkpoints" / "step_00000001.partial" / "run.json", IDENTITY)
    for name in ("checkpoints/step_00000002.partial", "learned.partial"):
        (tmp_path / name).mkdir()
    for name in ("run.json.partial", "result.json.partial", "README.md.partial", ".lock"):
        (tmp_path / name).touch()
    start(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_overwriting_deletes_the_events_of_the_previous_run(tmp_path):
    start(tmp_path)
    (tmp_path / "result.json").touch()
    for name in ("events.out.tfevents.1", "12.5/hparams.yml", "12.5/events.out.tfevents.2"):
        (tmp_path / "peft_mudpt" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "peft_mudpt" / name).touch()
    start(tmp_path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_overwriting_deletes_only_the_files_of_the_run_when_the_new_run_starts(tmp_path):
    start(tmp_path)
    (tmp_path / "adapter_config.json").touch()
    write_json(tmp_path / "checkpoints" / "step_00000001" / "run.json", IDENTITY)
    (tmp_path / "holiday.jpg").touch()
    other = {**IDENTITY, "seed": 2}
    assert claim(tmp_path, other, overwrite=True) is None and (tmp_path / "adapter_config.json").exists()
    start(tmp_path, other, overwrite=True)
    assert {file.name for file in tmp_path.iterdir()} == {"holiday.jpg", "run.json"}
    assert claim(tmp_path, other) is None


def damaged(identity):
    """Contents of a run.json that no run has written."""
    wrong = ({"method": []}, {"protocol": 3}, {"seed": {}}, {"method_kwargs": "{"}, {"method_kwargs": "[]"})
    pictures = ([1], {"training": [1]}, {"training": {"cat/0.png": None}})
    changed = [{**identity, **change} for change in (*wrong, *({"pictures": value} for value in pictures))]
    return ["", "null", "[]", "[" * 100_000, '{"mine": 1}', *map(json.dumps, changed)]


def test_a_damaged_record_of_a_run_is_named(tmp_path):
    start(tmp_path)
    for content in damaged(json.loads((tmp_path / "run.json").read_text())):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(ValueError, match="holds run.json, .*missing or damaged.*--overwrite_output_dir"):
            claim(tmp_path, IDENTITY)


def test_a_checkpoint_with_a_damaged_record_is_named(tmp_path):
    start(tmp_path)
    checkpoint = tmp_path / "checkpoints" / "step_00000001"
    checkpoint.mkdir(parents=True)
    for content in damaged(json.loads((tmp_path / "run.json").read_text())):
        (checkpoint / "run.json").write_text(content)
        with pytest.raises(ValueError, match="step_00000001 .*run.json is missing or damaged.*--overwrite_output_dir"):
            find_checkpoint(tmp_path, "latest", IDENTITY)


def test_pictures_of_that_name_are_the_users_unless_a_run_of_detection_wrote_them(tmp_path):
    (tmp_path / "detections.png").write_text("mine")
    assert claim(tmp_path, IDENTITY) is None
    with hold(tmp_path, IDENTITY, overwrite=True):
        write_result(tmp_path, RESULT)
    with hold(tmp_path, IDENTITY, overwrite=True):
        assert (tmp_path / "detections.png").read_text() == "mine"
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match="detections.png, which this run would replace"):
        claim(tmp_path, {**IDENTITY, "method": "sdpt", "task": "object-detection"})
