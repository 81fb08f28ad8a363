"""The ladder: the same runs with every form of the fusion."""

import runpy
import sys
from pathlib import Path

import pytest

from peft_mudpt import MuDPTConfig
from peft_mudpt.lab.ladder import RUNGS, rows_without_fusion, rungs
from peft_mudpt.lab.sweep import Run
from tests.lab.test_experiment import save_pictures
from tests.lab.test_sweep import asked, finish, sweep


SCRIPT = Path(__file__).parents[2] / "examples" / "ladder.py"
FORMS = [("none", "transformer")]
FORMS += [(d, t) for t in ("linear", "transformer") for d in ("vision_to_text", "text_to_vision", "bidirectional")]


def test_each_form_of_the_fusion_is_a_rung_that_changes_nothing_else(tmp_path):
    runs = [run for rung in rungs(sweep(tmp_path, shots=[4], seeds=[1])) for run in rung.runs({})]
    configs = [MuDPTConfig(**run.arguments().config_fields()) for run in runs]
    assert [(config.fusion_direction, config.fusion_type) for config in configs] == FORMS
    same = [{**vars(config), "fusion_direction": None, "fusion_type": None} for config in configs]
    assert all(other == same[0] for other in same)
    assert len({run.folder for run in runs}) == len(FORMS)


def test_each_rung_tries_the_same_learning_rates_on_the_same_pictures(tmp_path):
    plans = rungs(sweep(tmp_path, learning_rate_factors=[1.0, 3.0], flags=["--max_train_steps", "7"]))
    names = ("learning_rate", "seed", "shots", "protocol", "max_train_steps", "evaluate_on")
    searched = [asked(plan.search_runs(), *names) for plan in plans]
    assert searched == [searched[0]] * len(RUNGS) and len(searched[0]) == 2
    assert [asked(plan.runs({}), *names) for plan in plans] == [asked(plans[0].runs({}), *names)] * len(RUNGS)


@pytest.mark.parametrize(
    ("method", "flags", "row"),
    [
        ("mudpt", "", 'mudpt {"fusion_direction": "none"}'),
        ("mudpt_linear", "", 'mudpt_linear {"fusion_direction": "none"}'),
        ("ivlp", "", "ivlp"),
        ("ivlp", "--optimizer adamw --warmup constant", "ivlp adamw constant warmup"),
    ],
)
def test_the_reference_is_the_row_of_the_rung_without_fusion(tmp_path, method, flags, row):
    planned = sweep(tmp_path, methods=[method], flags=flags.split())
    for run in [run for rung in rungs(planned) for run in rung.runs({})]:
        finish(run)
    assert rows_without_fusion(planned) == [row]


@pytest.mark.parametrize("method", ["coop", "vpt_deep", "lora", "zero_shot"])
def test_a_method_whose_fusion_cannot_be_varied_is_named(tmp_path, method):
    with pytest.raises(ValueError, match=f"method {method} "):
        rungs(sweep(tmp_path, methods=[method]))


@pytest.mark.parametrize("given", [["--method_kwargs", "{}"], ["--method-kwargs={}"]])
def test_options_of_the_method_are_refused_because_the_rungs_set_them(tmp_path, given):
    with pytest.raises(ValueError, match="--method_kwargs"):
        rungs(sweep(tmp_path, flags=given))


def test_the_script_prints_the_differences_to_the_rung_without_fusion(tmp_path, monkeypatch, capsys):
    started = []

    def run_each(jobs, script, flags, logs, ended):
        """Instead of a training: 70 % without fusion, and a point more for each seed on the other rungs."""
        for given, log in zip(flags, logs):
            run = Run(log.parent, given)
            arguments = run.arguments()
            fused = arguments.config_fields().get("fusion_direction") != "none"
            finish(run, 70.0 + fused * arguments.seed)
            started.append((arguments.evaluate_on, arguments.learning_rate))

    monkeypatch.setattr("peft_mudpt.lab.jobs.JobOptions.run_each", run_each)
    pictures = save_pictures(tmp_path / "pictures", per_class=4)
    flags = f"--methods mudpt --protocol few-shot --shots 2 --train_dir {pictures} --output_dir {tmp_path / 'ladder'}"
    flags += " --learning_rate_factors 1,3"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *flags.split()])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert len(started) == len(RUNGS) * (2 + 3)  # two learning rates, and three seeds
    assert [on for on, _ in started] == ["validation"] * 2 * len(RUNGS) + ["test"] * 3 * len(RUNGS)
    printed = capsys.readouterr().out
    assert '| mudpt {"fusion_direction": "none"} | 70.0 ± 0.0 |' in printed
    assert "| mudpt | +2.0 [-0.5, +4.5] |" in printed
