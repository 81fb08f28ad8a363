"""Results in the layout of PEFT's `method_comparison`."""

import json
from pathlib import Path

import pytest

from peft_mudpt.lab.report.method_comparison import write_method_comparison
from peft_mudpt.lab.run_folder import ADAPTER_CONFIG
from peft_mudpt.lab.schema import read_results, write_result
from tests.lab.report.made_results import counts, result


# What PEFT reads of a file (`preprocess` in method_comparison/processing.py).
READ_BY_PEFT = {
    "run_info": ["experiment_name", "peft_config", "peft_branch", "train_config", "total_time", "created_at"],
    "train_info": [
        "status",
        "metrics",
        "accelerator_memory_reserved_avg",
        "accelerator_memory_max",
        "accelerator_memory_reserved_99th",
        "train_time",
        "file_size",
    ],
    "meta_info": ["package_info", "system_info"],
}
METRICS_READ_BY_PEFT = ["test accuracy", "train loss", "train samples", "train total tokens"]
VERSIONS_READ_BY_PEFT = ["peft", "transformers", "datasets", "torch", "bitsandbytes"]
VERSIONS = {"peft": "0.21.0", "transformers": "5.24.0", "torch": "2.13.0"}


def base_to_new(new_right=3, **changes) -> dict:
    """Of 10 pictures per class, 8 of the base class and `new_right` of the new one are right; 5 and 6 before."""
    return result(
        protocol="base-to-new",
        summary={"base": 80.0, "new": 10.0 * new_right, "harmonic_mean": 50.0},
        metrics={"base": counts(cat=8), "new": counts(dog=new_right)},
        zero_shot={"base": counts(cat=5), "new": counts(dog=6)},
        versions=VERSIONS,
        **{"hardware": {"device": "Some GPU", "processes": 1}, **changes},
    )


def write(folder: Path, *made) -> list[dict]:
    for i, content in enumerate(made):
        write_result(folder / str(i), content)
        (folder / str(i) / ADAPTER_CONFIG).write_text(json.dumps({"peft_type": "MUDPT"}))
    return read_results(folder)


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture
def written(tmp_path):
    (file,) = write_method_comparison(write(tmp_path / "runs", base_to_new()), tmp_path / "out")
    return read(file)


def test_a_file_has_every_key_that_peft_reads(written):
    for part, keys in READ_BY_PEFT.items():
        assert {*keys} <= {*written[part]}
    assert {*METRICS_READ_BY_PEFT} <= {*written["train_info"]["metrics"][-1]}
    assert {f"{name}-version" for name in VERSIONS_READ_BY_PEFT} <= {*written["meta_info"]["package_info"]}
    assert "model_id" in written["run_info"]["train_config"]


def test_accuracy_is_that_of_base_classes_and_forgetting_what_new_classes_lose(written):
    metrics = written["train_info"]["metrics"][-1]
    assert metrics["test accuracy"] == pytest.approx(0.8)
    assert metrics["forgetting"] == pytest.approx(0.6 - 0.3)


def test_costs_and_the_config_of_the_adapter_are_those_of_the_run(written):
    assert written["run_info"]["peft_config"] == {"peft_type": "MUDPT"}
    assert written["run_info"]["total_time"] == 12.0 and written["train_info"]["train_time"] == 10.0
    assert written["train_info"]["accelerator_memory_max"] == 500_000_000
    assert written["train_info"]["file_size"] == 4_938_268
    assert written["meta_info"]["system_info"]["accelerator"] == "Some GPU"


def test_the_memory_of_a_process_on_a_cpu_is_not_reported_as_that_of_an_accelerator(tmp_path):
    (file,) = write_method_comparison(write(tmp_path / "runs", base_to_new(hardware={"device": "cpu"})), tmp_path)
    assert read(file)["train_info"]["accelerator_memory_max"] is None


def test_each_seed_has_a_file_and_other_protocols_and_searches_have_none(tmp_path):
    made = [base_to_new(seed=1), base_to_new(seed=2), base_to_new(evaluate_on="validation"), result()]
    files = write_method_comparison(write(tmp_path / "runs", *made), tmp_path / "out")
    assert [file.name for file in files] == [f"mudpt--some-clip-dtd-shots4-seed{seed}.json" for seed in (1, 2)]


def test_runs_of_equal_names_get_files_of_their_own(tmp_path):
    made = [base_to_new(), base_to_new(new_right=6, method_kwargs='{"num_virtual_tokens": 2}')]
    files = write_method_comparison(write(tmp_path / "runs", *made), tmp_path / "out")
    assert [read(file)["train_info"]["metrics"][-1]["forgetting"] for file in files] == pytest.approx([0.3, 0.0])
    assert [read(file)["run_info"]["experiment_name"].replace("/", "--") for file in files] == [
        file.stem for file in files
    ]


def test_results_without_such_an_adapter_are_refused(tmp_path):
    results = write(tmp_path / "runs", result())
    with pytest.raises(ValueError, match="--method_comparison .*base-to-new"):
        write_method_comparison(results, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_of_the_same_experiment_are_replaced_and_no_others(tmp_path):
    results = write(tmp_path / "runs", base_to_new())
    (file,) = write_method_comparison(results, tmp_path / "out")
    assert write_method_comparison(results, tmp_path / "out") == [file]
    file.write_text("mine")
    with pytest.raises(ValueError, match=file.name):
        write_method_comparison(results, tmp_path / "out")
    assert file.read_text() == "mine"
