"""The folders of runs, and their result files."""

import json

import pytest

from peft_mudpt.lab.run_folder import claim, hold
from peft_mudpt.lab.schema import FIELDS, LATER, read_result, read_results, write_result
from tests.lab.report.made_results import result


IDENTITY = {"method": "mudpt", "seed": 1}
RESULT = result(objective="cross_entropy")


MISSING = object()


def start(folder, identity=IDENTITY, overwrite=False):
    """Do to the folder what a run does before it trains."""
    with hold(folder, identity, overwrite):
        pass


def test_a_result_is_read_with_the_version_of_its_schema(tmp_path):
    write_result(tmp_path, {**RESULT, "dataset": "Blümchen"})
    assert read_result(tmp_path) == {**RESULT, "dataset": "Blümchen", "schema_version": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


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


@pytest.mark.parametrize("field", [name for name in FIELDS if name not in ("schema_version", *LATER)])
@pytest.mark.parametrize("value", [[None], {"a": {"b": []}}, "a", float("nan"), MISSING])
def test_a_field_with_an_unexpected_value_is_named_with_its_file(tmp_path, field, value):
    content = {**RESULT, "schema_version": 1, field: value}
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
    with pytest.raises(ValueError, match="nowhere.*result.json.*examples/fewshot.py"):
        read_results(tmp_path / "nowhere")


def test_an_empty_or_a_missing_folder_is_free(tmp_path):
    assert claim(tmp_path, IDENTITY) is None
    assert claim(tmp_path / "nowhere", IDENTITY) is None
    assert not (tmp_path / "nowhere").exists()


def test_a_run_may_use_its_own_folder_before_and_after_it_finishes(tmp_path):
    start(tmp_path)
    assert claim(tmp_path, IDENTITY) is None
    write_result(tmp_path, RESULT)
    assert claim(tmp_path, IDENTITY)["schema_version"] == 1


@pytest.mark.parametrize("left", ["adapter_config.json", "checkpoints"])
def test_a_folder_of_another_run_is_refused_with_the_difference(tmp_path, left):
    start(tmp_path)
    (tmp_path / left).mkdir()
    with pytest.raises(ValueError, match="another run .seed: 1 .* 2 .*--overwrite_output_dir"):
        claim(tmp_path, {**IDENTITY, "seed": 2})


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


def test_a_run_that_fails_unlocks_its_folder(tmp_path):
    with pytest.raises(RuntimeError), hold(tmp_path, IDENTITY):
        raise RuntimeError
    start(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_folder_with_a_readme_of_its_own_is_free(tmp_path):
    (tmp_path / "README.md").touch()
    assert claim(tmp_path, IDENTITY) is None
    start(tmp_path, overwrite=True)
    assert (tmp_path / "README.md").exists()


def test_an_adapter_without_a_record_of_its_run_is_not_overwritten(tmp_path):
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ValueError, match="adapter_config.json, .*run.json"):
        claim(tmp_path, IDENTITY)


def test_overwriting_deletes_only_the_files_of_the_run_when_the_new_run_starts(tmp_path):
    start(tmp_path)
    (tmp_path / "adapter_config.json").touch()
    (tmp_path / "checkpoints" / "step_00000001").mkdir(parents=True)
    (tmp_path / "holiday.jpg").touch()
    other = {**IDENTITY, "seed": 2}
    assert claim(tmp_path, other, overwrite=True) is None and (tmp_path / "adapter_config.json").exists()
    start(tmp_path, other, overwrite=True)
    assert {file.name for file in tmp_path.iterdir()} == {"holiday.jpg", "run.json"}
    assert claim(tmp_path, other) is None
