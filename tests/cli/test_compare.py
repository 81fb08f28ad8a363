"""`peft-mudpt compare`, which works without the scripts of a checkout."""

import runpy
import sys
from pathlib import Path

import pytest

from peft_mudpt.lab.jobs import JobOptions
from peft_mudpt.lab.terminal import USER_ERROR
from peft_mudpt_cli import train
from tests.lab.test_experiment import save_pictures


def test_each_run_is_one_of_train_with_the_flags_that_compare_does_not_know(run_command, monkeypatch, tmp_path):
    runs = []

    def run_each(jobs, script, flags, logs, ended):
        assert script == Path(train.__file__)
        for index, given in enumerate(flags):
            monkeypatch.setattr(sys, "argv", [str(script), *given])
            runpy.run_path(str(script), run_name="__main__")  # as a worker does
            ended(index, 0)

    pictures = save_pictures(tmp_path / "pictures", per_class=4)
    monkeypatch.setattr(JobOptions, "run_each", run_each)
    monkeypatch.setattr("peft_mudpt.lab.run.run", runs.append)
    words = [pictures, "--methods", "zero_shot,coop", "--protocol", "few-shot", "--shots", "4", "--seeds", "1,2"]
    words += ["--learning_rate_factors", "1", "--max_train_steps", "7"]
    done = run_command("compare", *words, "--output_dir", tmp_path / "runs")
    assert done.code == 0, done.stderr
    assert {run.train_dir for run in runs} == {pictures}
    assert [(run.method, run.seed, run.max_train_steps) for run in runs] == [
        (method, seed, 7) for method in ("zero_shot", "coop") for seed in (1, 2)
    ]
    assert done.stdout.endswith(f"peft-mudpt report {tmp_path / 'runs'}\n")


@pytest.mark.parametrize("words", [["--train_dir", "other"], ["--train_dir=other"], ["--train-dir", "other"]])
def test_two_folders_of_pictures_are_refused(run_command, words):
    done = run_command("compare", "one", "--seeds", "1", *words)
    assert done.code == USER_ERROR and "FOLDER one and --train_dir other name two folders" in done.stderr


def test_an_unknown_flag_is_compared_with_those_of_compare_and_of_train(run_command):
    assert "Unknown arguments: --metods. Did you mean --methods?" in run_command("compare", "--metods", "coop").stderr
    assert "Unknown arguments: --shot=3. Did you mean --shots?" in run_command("compare", "--shot=3").stderr
