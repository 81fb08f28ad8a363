"""How the experiments of a sweep are run."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from peft_mudpt import demo
from peft_mudpt.lab import devices, processes
from peft_mudpt.lab.experiment import select
from peft_mudpt.lab.identity import what_was_asked
from peft_mudpt.lab.jobs import JobOptions
from peft_mudpt.lab.run_folder import hold, lock
from peft_mudpt.lab.sweep_runs import duration, known_pictures, run_all, run_sweep
from peft_mudpt.lab.terminal import DIVERGED, IN_USE, one_line_errors
from tests.lab.report.made_results import result
from tests.lab.test_experiment import save_pictures
from tests.lab.test_sweep import finish, sweep


@pytest.fixture
def constant_pictures(monkeypatch):
    """For runs on the embedded world: its pictures need not be drawn to know that they are the same."""
    monkeypatch.setattr("peft_mudpt.lab.sweep_runs.known_pictures", lambda: lambda experiment: {})


def test_a_search_without_validation_pictures_is_refused_before_a_run_starts(tmp_path):
    folder = save_pictures(tmp_path / "pictures", per_class=1)
    asked = sweep(tmp_path / "lab", flags=["--train_dir", folder], learning_rate_factors=[1.0, 3.0])
    with pytest.raises(ValueError, match="pictures .*validation"):
        run_sweep(asked, stand_in(tmp_path), JobOptions(jobs=1))
    assert not (tmp_path / "notes").exists()


def test_unusable_data_are_refused_before_a_run_starts_also_without_a_search(tmp_path):
    asked = sweep(tmp_path / "lab", flags=["--train_dir", str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        run_sweep(asked, stand_in(tmp_path), JobOptions(jobs=1))
    assert not (tmp_path / "notes").exists()


def stand_in(tmp_path, code="") -> Path:
    """A script that replaces examples/fewshot.py: it records its flags, and then runs `code`."""
    script = tmp_path / "stand_in.py"
    notes = tmp_path / "notes"
    script.write_text(f"import sys\nopen({str(notes)!r}, 'a').write(repr(sys.argv[1:]) + '\\n')\n{code}")
    return script


def test_a_run_that_has_a_result_is_skipped(tmp_path, constant_pictures):
    runs = sweep(tmp_path / "lab").runs({})
    finish(runs[2])
    run_all(runs, stand_in(tmp_path), JobOptions(jobs=2), title="runs")
    noted = (tmp_path / "notes").read_text().splitlines()
    assert sorted(noted) == sorted(repr(run.flags) for run in runs if run != runs[2])


def test_a_failed_run_is_reported_with_its_error_after_the_others_have_finished(tmp_path):
    runs = sweep(tmp_path / "lab").runs({})
    script = stand_in(tmp_path, "if '2' in sys.argv: raise ValueError('out of paint')")
    with pytest.raises(RuntimeError, match=r"2 of 4 runs failed(.|\n)*seed_2: ValueError: out of paint"):
        run_all(runs, script, JobOptions(jobs=1), title="runs")
    assert len((tmp_path / "notes").read_text().splitlines()) == 4


def test_a_learning_rate_whose_run_diverges_is_not_chosen(tmp_path, constant_pictures):
    plan = sweep(tmp_path / "lab", learning_rate_factors=[1.0, 3.0])
    finish(plan.search_runs()[0], accuracy=10.0)
    script = stand_in(tmp_path, f"sys.exit({DIVERGED})")
    run_all(plan.search_runs(), script, JobOptions(jobs=1), title="learning rates", tolerated=DIVERGED)
    with pytest.raises(RuntimeError, match="1 of 2 runs failed"):
        run_all(plan.search_runs(), script, JobOptions(jobs=1), title="runs")
    assert plan.chosen_learning_rates() == {("few-shot", None, "mudpt"): 0.001}


def test_a_folder_of_another_run_stops_the_sweep_before_it_starts(tmp_path, constant_pictures):
    runs = sweep(tmp_path / "lab").runs({})
    with hold(runs[3].folder, {**what_was_asked(runs[3].arguments()), "max_train_steps": 5}):
        pass
    (runs[3].folder / "adapter_config.json").touch()
    with pytest.raises(ValueError, match="another run .max_train_steps: 5 .*delete this folder"):
        run_all(runs, stand_in(tmp_path), JobOptions(jobs=1), title="runs")
    assert not (tmp_path / "notes").exists()


def test_a_finished_run_whose_pictures_changed_since_is_not_taken_for_this_run(tmp_path):
    pictures = Path(save_pictures(tmp_path / "pictures", 3))
    runs = sweep(tmp_path / "lab", flags=["--train_dir", str(pictures)]).runs({})
    experiment = runs[0].arguments().experiment()
    finish(runs[0], pictures=select(experiment).fingerprints)
    assert [run.is_finished(known_pictures()) for run in runs] == [True, False, False, False]
    replaced = pictures / "hollow_blue_heart" / "2.png"
    replaced.write_bytes(replaced.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="pictures: 1 replaced .hollow_blue_heart/2.png"):
        run_all(runs, stand_in(tmp_path), JobOptions(jobs=1), title="runs")
    assert not (tmp_path / "notes").exists()


def test_a_finished_run_whose_clip_changed_since_is_not_taken_for_this_run(tmp_path, constant_pictures):
    clip = shutil.copytree(demo.MODEL_PATH, tmp_path / "clip")
    runs = sweep(tmp_path / "lab", flags=["--model_name_or_path", str(clip)]).runs({})
    finish(runs[0], model_files=runs[0].arguments().experiment().backbone.fingerprints())
    assert runs[0].is_finished(lambda experiment: {})
    weights = clip / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ValueError, match="another run .files of --model_name_or_path: 1 replaced .model.safetensors"):
        run_all(runs, stand_in(tmp_path), JobOptions(jobs=1), title="runs")
    assert not (tmp_path / "notes").exists()


def test_a_run_that_another_process_is_at_work_on_is_left_to_it(tmp_path, constant_pictures, monkeypatch):
    runs = sweep(tmp_path / "lab").runs({})
    script = stand_in(tmp_path)
    with contextlib.ExitStack() as other_process:
        other_process.enter_context(lock(runs[2].folder))

        def pause(seconds):
            noted = (tmp_path / "notes").read_text().splitlines()
            assert sorted(noted) == sorted(repr(run.flags) for run in runs if run != runs[2])
            other_process.close()
            finish(runs[2])

        monkeypatch.setattr(time, "sleep", pause)
        run_all(runs, script, JobOptions(jobs=1))
    assert len((tmp_path / "notes").read_text().splitlines()) == 3


@pytest.mark.parametrize("it_ends", ["before it starts here", "while it starts here"])
def test_a_run_that_another_process_has_left_without_a_result_is_done_here(tmp_path, monkeypatch, it_ends):
    runs = sweep(tmp_path / "lab", shots=[1], seeds=[1]).runs({})
    code = f"import os\nif not os.path.exists('again'): open('again', 'w'); sys.exit({IN_USE})"
    script = stand_in(tmp_path, code if it_ends == "while it starts here" else "")
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as other_process:
        if it_ends == "before it starts here":
            other_process.enter_context(lock(runs[0].folder))
        monkeypatch.setattr(time, "sleep", lambda seconds: other_process.close())
        run_all(runs, script, JobOptions(jobs=1))
    assert len((tmp_path / "notes").read_text().splitlines()) == (1 if it_ends == "before it starts here" else 2)


def test_the_script_ends_with_a_code_of_its_own_if_another_process_uses_the_folder(tmp_path):
    with pytest.raises(SystemExit) as end, one_line_errors(), lock(tmp_path / "run"), lock(tmp_path / "run"):
        pass
    assert end.value.code == IN_USE


def test_a_log_that_was_there_before_is_kept(tmp_path):
    (run,) = sweep(tmp_path / "lab", shots=[1], seeds=[1]).runs({})
    run.folder.mkdir(parents=True)
    (run.folder / "log.txt").write_text("my notes\nFloatingPointError\n")
    with pytest.raises(RuntimeError, match="empty log"):  # an old error does not explain a new one
        run_all([run], stand_in(tmp_path, "sys.exit(1)"), JobOptions(jobs=1), title="runs")
    assert (run.folder / "log.txt").read_text().startswith("my notes\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_sweep_that_is_told_to_end_ends_its_runs_and_their_processes(tmp_path, number):
    worker = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', 'import time; time.sleep(600)'])"
    script = "import os, runpy, sys; from pathlib import Path\n"
    script += f"run_each = runpy.run_path({processes.__file__!r})['run_each']\n"  # quicker than to import the lab
    script += "run_each(Path('busy.py'), [[]] * 3, [Path('log')] * 3, [os.environ] * 2, print)"
    (tmp_path / "busy.py").write_text(worker)
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    process = psutil.Process(parent.pid)
    while len(family := process.children(recursive=True)) < 4:
        time.sleep(0.05)
    parent.send_signal(number)
    assert parent.wait(30) not in (0, -signal.SIGKILL)
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert (tmp_path / "log").read_text().count("$ ") == 2


def test_fewer_jobs_than_one_are_refused():
    with pytest.raises(ValueError, match="--jobs=0 "):
        JobOptions(jobs=0)


def test_a_worker_runs_script_after_script_in_one_process(tmp_path):
    runs = sweep(tmp_path / "lab").runs({})
    script = stand_in(tmp_path, "import os, this\nprint(os.getpid(), __name__, sys.path[0])\nprint(sys.stdin.read())")
    run_all(runs, script, JobOptions(jobs=1), title="runs")
    first, *others = [(run.folder / "log.txt").read_text().splitlines() for run in runs]
    pid, name, path = first[-2].split()
    assert (name, path) == ("__main__", str(tmp_path)) and any("Beautiful is better" in line for line in first)
    for run, log in zip(runs[1:], others):
        assert log == [f"$ {sys.executable} {script} {' '.join(run.flags)}", f"{pid} __main__ {tmp_path}", ""]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "print('50 %', end='', flush=True), os.kill(os.getpid(), 9)",
            "its process was ended by SIGKILL, as the system",
        ),
        ("os._exit(3)", "its process ended with the exit code 3"),
        ("sys.exit('no paint')", "no paint"),
    ],
)
def test_a_run_that_ends_its_worker_costs_this_run_only(tmp_path, code, words):
    runs = sweep(tmp_path / "lab").runs({})
    script = stand_in(tmp_path, f"import os\nif '{runs[1].folder}' in sys.argv: {code}")
    with pytest.raises(RuntimeError, match=rf"1 of 4 runs failed(.|\n)*{runs[1].folder}: .*{words}"):
        run_all(runs, script, JobOptions(jobs=1), title="runs")
    assert len((tmp_path / "notes").read_text().splitlines()) == 4


def test_shares_are_disjoint_and_together_all_runs(tmp_path, constant_pictures):
    runs, script = sweep(tmp_path / "lab").runs({}), stand_in(tmp_path)
    for i in (1, 2, 3):
        run_all(runs, script, JobOptions(jobs=1, only=f"{i}/3"))
    noted = (tmp_path / "notes").read_text().splitlines()
    assert sorted(noted) == sorted(repr(run.flags) for run in runs)


def test_a_share_of_the_search_does_not_begin_the_comparison(tmp_path, constant_pictures):
    asked, script = sweep(tmp_path / "lab", learning_rate_factors=[1.0, 3.0], shots=[1]), stand_in(tmp_path)
    assert not run_sweep(asked, script, JobOptions(jobs=1, only="1/2"))
    assert len((tmp_path / "notes").read_text().splitlines()) == 1
    for run in asked.search_runs():
        finish(run, 50.0)
    assert not run_sweep(asked, script, JobOptions(jobs=1, only="1/2"))
    assert "'--evaluate_on', 'test'" in (tmp_path / "notes").read_text().splitlines()[-1]


def test_a_learning_rate_that_diverged_is_not_tried_again(tmp_path, constant_pictures):
    runs = sweep(tmp_path / "lab", learning_rate_factors=[1.0, 3.0]).search_runs()
    script = stand_in(tmp_path, f"sys.exit({DIVERGED})")
    for _ in range(2):
        assert run_all(runs, script, JobOptions(jobs=1), tolerated=DIVERGED)
    assert len((tmp_path / "notes").read_text().splitlines()) == 2


@pytest.mark.parametrize("only", ["0/3", "4/3", "1", "a/b", "1/3/5", "-1/3"])
def test_what_is_no_share_is_refused(only):
    with pytest.raises(ValueError, match=f"--only {only} "):
        JobOptions(only=only)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engine": "slurm"}, "--engine"),
        ({"engine": "ray", "jobs": 2}, "--jobs 2"),
        ({"cpus_per_run": 2}, "--cpus_per_run needs --engine ray"),
        ({"gpus_per_run": 0.5}, "--gpus_per_run needs --engine ray"),
    ],
)
def test_options_of_another_engine_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        JobOptions(**fields)


def test_a_dry_run_prints_the_runs_and_how_long_they_will_take(tmp_path, constant_pictures, capsys):
    asked = sweep(tmp_path / "lab", methods=["mudpt", "lora"], seeds=[1])
    run_sweep(asked, stand_in(tmp_path), JobOptions(dry_run=True))
    assert "4 of 4 runs have no result yet.\nNone of their methods has a result" in capsys.readouterr().out
    finish(asked.runs({})[0])  # in 43 seconds
    run_sweep(asked, stand_in(tmp_path), JobOptions(dry_run=True, jobs=2))
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == [str(run.folder) for run in asked.runs({})[1:]]
    seconds = result("mudpt", 0.0)["seconds"]["total"]
    expected = f"1 of them take {duration(seconds)} one after another, as earlier runs did; 2 at a time: "
    assert printed[3:] == ["3 of 4 runs have no result yet.", expected + f"{duration(seconds / 2)}."]
    for run in asked.runs({})[1:]:
        finish(run)
    run_sweep(asked, stand_in(tmp_path), JobOptions(dry_run=True))
    assert capsys.readouterr().out.splitlines() == ["0 of 4 runs have no result yet."]
    assert not (tmp_path / "notes").exists()


def test_a_dry_run_names_only_the_first_of_many_runs(tmp_path, constant_pictures, capsys):
    asked = sweep(tmp_path / "lab", methods=["mudpt", "lora"], seeds=[1, 2, 3])
    run_sweep(asked, stand_in(tmp_path), JobOptions(dry_run=True))
    assert [str(run.folder) for run in asked.runs({})[:5]] + ["... and 7 more"] == capsys.readouterr().out.split("\n")[
        :6
    ]


@pytest.mark.parametrize(("seconds", "words"), [(9.6, "0 min 10 s"), (310, "5 min 10 s"), (3900, "1 h 05 min")])
def test_a_duration_is_given_in_hours_and_minutes(seconds, words):
    assert duration(seconds) == words


def test_each_gpu_has_its_own_worker(monkeypatch):
    monkeypatch.setattr(devices, "gpus", lambda: ["0", "3"])
    monkeypatch.setattr(devices, "usable_cores", lambda: 8)
    given = devices.worker_environments(2)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in given] == ["0", "0", "3", "3"]
    assert {each["OMP_NUM_THREADS"] for each in given} == {"2"}
    assert len(devices.worker_environments(None)) == 2
