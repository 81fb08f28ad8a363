"""Checks README, CONTRIBUTING and docs/: every block of code is run, or this file gives the reason why it is not."""

import contextlib
import io
import re
import runpy
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from peft_mudpt_cli.command import main as command
from tests.conftest import reset_accelerator
from tests.test_versions import PROJECT


ROOT = Path(__file__).parents[1]
FILES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in FILES}
CODE, NO_CODE = ("bash", "python"), ("bibtex", "text")
COMMAND = ("peft-mudpt", "peft_mudpt")  # as a program, and as a module
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PRINTED_BY = re.compile(r"<!-- printed by: (.+?) -->")
COMMENT = re.compile(r"^\s*print\(.*\)  # (.+)$", re.MULTILINE)
TRAINER_LOG = re.compile(r"^\{'(?:eval_|train_)?(?:loss|runtime)'.*\n", re.MULTILINE)  # holds times

# Flags that make a script fast, by words of the command. They are added to those of the page and replace none.
SHORTER = {
    "fewshot.py --method advpt": "--max_train_steps 2 --attack_steps 1 --shots 1",
    "fewshot.py": "--max_train_steps 2",
    "peft-mudpt train": "--max_train_steps 2",
    "peft_mudpt train": "--max_train_steps 2",
    "fewshot_detection.py": "--max_train_steps 2",
    "sweep.py --max_train_steps 800": "--protocol few-shot --methods zero_shot --seeds 1",  # all of it takes hours
    "sweep.py --train_dir": "--max_train_steps 2 --seeds 1 --shots 1 --learning_rate_factors 1",
    "families.py": "--families clip",
    "benchmark.py --models tiny": "--batch_sizes 2 --memory_classes none --seconds 0",
    "benchmark.py": "--models tiny --classes 2,4 --batch_sizes 2 --memory_classes none --seconds 0",
}
# Parts of commands that cannot run here, and the reasons. If the script is in WORK_BEGINS, it parses and checks the
# flags, and stops at the function where its work begins. A command ends in a line break.
ONLY_READ = {
    "peft-mudpt train\n": "the README's first command trains the same",
    "report outputs/fewshot": "the run before it is only read",
    "train my_pictures\n": "needs the Hub",
    "train my_pictures --push_to_hub": "needs the Hub",
    "--model_name_or_path openai/": "needs the Hub",
    "--model_name_or_path IDEA-Research/": "needs the Hub",
    "--engine ray": "tests/lab/test_ray_engine.py starts a cluster",
    "sweep_detection.py": "18 runs take minutes; tests/lab/detection/test_sweep.py runs some",
    "--method_comparison": "the shortened sweep trains no adapter; test_method_comparison.py writes files",
    "report.py outputs/scenes": "the sweep before it is only read",
    "--dataset_name": "needs the Hub",
    "--coop_root": "needs CoOp's data sets",
    "--precision bfloat16": "needs a GPU",
    "benchmark.py --models none --lab": "takes a minute; tests/lab/cost/test_lab.py measures some",
    "--detectors grounding_dino_tiny": "takes minutes; tests/lab/cost/test_detectors.py measures a tiny detector",
    "outputs/ablation/": "six similar sweeps take too long",
    "outputs/recipe/": "three similar sweeps take too long",
    "--paired ivlp": "the sweep before it, made shorter, runs no ivlp; tests/examples/test_report.py compares rows",
    "examples/robustness.py": "trains and attacks eight methods; tests/lab/test_robustness.py attacks some",
    "fewshot.py --method mudpt --adversarial": "like the command before it; tests/lab/training/test_adversarial.py",
    "--test_attacks cross_entropy:4/255,apgd_ce": "tests/lab/test_robustness.py attacks pictures of such runs",
    "examples/ladder.py": "tests/lab/test_ladder.py runs it without training",
    "examples/federated.py": "twenty rounds take a minute or more; tests/lab/federated/test_running.py runs some",
    "federated_flower.py": "starts five processes; tests/lab/federated/test_network.py does so",
    "sweep_federated.py": "48 runs take long; tests/lab/federated/test_comparison.py plans some",
    "-m peft_mudpt train --output_dir outputs/several": "the same command as the one before it",
    "torch.distributed.run": "tests/examples/test_fewshot.py runs two processes",
    "predict outputs/my_pictures pictures.parquet": "tests/lab/test_prediction_job.py runs two processes",
    "demo outputs/adapter\n": "waits for a browser; tests/lab/web_demo/test_page.py opens the page",
    "export outputs/adapter outputs/classifier.onnx": "tests/examples/test_export.py does the same",
    "export outputs/adapter outputs/encoders-too": "tests/examples/test_export.py does the same",
}
# Prints installed versions, and so something else with the next releases. It has a test of its own.
OTHER_ELSEWHERE = "library_surprises.py"
WORK_BEGINS = {
    "train": "peft_mudpt.lab.run.run",
    "predict": "peft_mudpt.lab.data.unlabeled.find_pictures",
    "report": "peft_mudpt.lab.schema.read_results",
    "benchmark.py": "peft_mudpt.lab.cost.running.run",
    "demo": "peft_mudpt.lab.web_demo.demo.Demo.load",
    "evaluate": "peft_mudpt.lab.evaluation_job.evaluate_saved",
    "export": "peft_mudpt.lab.run_classifier.load_classifier",
    "families.py": "peft_mudpt.optional.require",
    "federated.py": "peft_mudpt.lab.federated.running.run",
    "federated_flower.py": "peft_mudpt.lab.federated.network.run_with_flower",
    "fewshot.py": "peft_mudpt.lab.run.run",
    "fewshot_detection.py": "peft_mudpt.lab.run.run",
    "ladder.py": "peft_mudpt.lab.ladder.run_ladder",
    "report.py": "peft_mudpt.lab.schema.read_results",
    "robustness.py": "peft_mudpt.lab.sweep_runs.run_sweep",
    "sweep.py": "peft_mudpt.lab.sweep_runs.run_sweep",
    "sweep_detection.py": "peft_mudpt.lab.sweep_runs.run_sweep",
    "sweep_federated.py": "peft_mudpt.lab.federated.comparison.run_all",
}
# Parts of blocks that are not run, and the reasons.
LEFT_OUT = {
    "python -m venv": "creates a fresh environment; .ci/run does this with the README's commands",
    '"IDEA-Research/': "needs the Hub; tests/sdpt/ does the same with random detectors",
    "ruff check": ".ci/run runs ruff and mypy",
    "grounding-dino-tiny": "needs the Hub; tests/detection and tests/lab/data/boxes do the same with a tiny detector",
}
if find_spec("flwr") is None:
    LEFT_OUT["federated"] = "needs Flower, which needs Python 3.11"
if find_spec("gradio") is None:
    LEFT_OUT["peft-mudpt demo"] = "needs the extra [demo]; .ci/run has an environment with it"


class WorkBegins(Exception):
    """Raised when a script has checked its flags and its work would begin."""


def code_blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of each block that is run."""
    blocks = BLOCK.findall(PAGES[page])
    return [(language, text) for language, text in blocks if language in CODE and not any(x in text for x in LEFT_OUT)]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A working folder like that of a reader, with examples/ in it."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "DIR").mkdir()  # the name that the pages use for the folder of CoOp's data sets
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    reset_accelerator()


def called_by(block: str, workplace: Path) -> list[list[str]]:
    """The calls that bash makes for a block. Each program is replaced by one that only prints its arguments."""
    programs = workplace / "programs"
    programs.mkdir(exist_ok=True)
    # each prints its name and arguments with ASCII separators
    for name in ("accelerate", "peft-mudpt", "pip", "python", "ray"):
        (programs / name).write_text(f"#!/bin/sh\nprintf '%s\\037' {name} \"$@\"\nprintf '\\036'\n")
        (programs / name).chmod(0o755)
    bash = ["/bin/bash", "-euo", "pipefail", "-c", block]
    calls = subprocess.run(bash, env={"PATH": str(programs)}, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [call.split("\037")[:-1] for call in calls.split("\036")[:-1]]


def shortened(arguments: list[str]) -> list[str]:
    """The call of a script, with flags added that make it fast."""
    added = next((flags.split() for words, flags in SHORTER.items() if words in shlex.join(arguments)), [])
    assert not {flag for flag in added if flag.startswith("--")} & {*arguments}
    return [*arguments, *added]


def run_each_here(jobs, script, flags, logs, ended) -> None:
    """The runs of a sweep, one after another in this process: a process for each would take a minute to import."""
    for index, given in enumerate(flags):
        logs[index].parent.mkdir(parents=True, exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(script), *given])
            runpy.run_path(str(script), run_name="__main__")
        reset_accelerator()
        ended(index, 0)


def run_call(call: list[str], monkeypatch, cannot_run: bool) -> None:
    """
    Run a script or a command in this process, which has already imported the modules; or only up to where its work
    begins.
    """
    arguments = call[next(i for i, word in enumerate(call) if word.startswith("examples/") or word in COMMAND) :]
    is_command = arguments[0] in COMMAND
    name = arguments[1] if is_command else Path(arguments[0]).name
    only_read = cannot_run and name in WORK_BEGINS
    with monkeypatch.context() as patch:
        patch.setattr("peft_mudpt.lab.jobs.JobOptions.run_each", run_each_here)
        patch.setattr("peft_mudpt.lab.cost.rows.in_child", lambda function, given, *_: function(**given))
        if only_read:
            patch.setattr(WORK_BEGINS[name], begin)
        patch.setattr(sys, "argv", arguments if only_read else shortened(arguments))
        with pytest.raises(WorkBegins) if only_read else contextlib.nullcontext():
            command() if is_command else runpy.run_path(arguments[0], run_name="__main__")


def begin(*_, **__):
    raise WorkBegins


def check_extra(requirement: str) -> None:
    extras = re.fullmatch(r"\.\[(.+)\]", requirement)[1].split(",")
    assert {*extras} <= {*PROJECT["optional-dependencies"]}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if code_blocks(page)])
def test_the_blocks_of_a_page_run_and_print_what_their_comments_say(page, workplace, monkeypatch):
    names = {}
    for language, block in code_blocks(page):
        if language == "bash":
            for call in called_by(block, workplace):
                if call[0] == "pip":
                    check_extra(call[-1])
                elif call[0] == "ray":
                    continue  # tests/lab/test_ray_engine.py starts a cluster
                else:
                    line = f"{shlex.join(call)}\n"
                    run_call(call, monkeypatch, cannot_run=any(words in line for words in ONLY_READ))
        else:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, page, "exec"), names)
            assert TRAINER_LOG.sub("", printed.getvalue()).splitlines() == COMMENT.findall(block)


def test_every_block_names_its_language_and_every_reason_applies_to_a_block():
    blocks = [block for text in PAGES.values() for block in BLOCK.findall(text)]
    assert {language for language, _ in blocks} <= {*CODE, *NO_CODE}
    commands = " ".join(text.replace("\\\n", "") for _, text in blocks)
    commands = re.sub(" +", " ", commands)
    assert [reason for reason in (*ONLY_READ, *LEFT_OUT) if reason not in commands] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    sorted(
        found
        for found in {found for text in PAGES.values() for found in PRINTED_BY.findall(text)}
        if not ("federated" in found and "federated" in LEFT_OUT) and OTHER_ELSEWHERE not in found
    ),
)
def test_a_command_that_printed_a_block_accepts_its_flags_and_prints_the_block_if_it_is_fast(
    command, workplace, monkeypatch, capsys
):
    run_call(shlex.split(command), monkeypatch, cannot_run=True)
    printed = capsys.readouterr().out
    assert any(f"<!-- printed by: {command} -->" in text and printed in text for text in PAGES.values())


def anchors(page: str) -> set[str]:
    """The anchors that GitHub generates for the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", PAGES[page]), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_have_targets(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", PAGES[page])):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file.resolve().relative_to(ROOT).as_posix()), link


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_exist(page):
    named = re.findall(r"(?:\b(?:examples|peft_mudpt|tests)/[\w/]+\.py|\.ci/[\w.]+)\b", PAGES[page])
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_printed_block_holds_what_was_printed():
    blocks = re.findall(r"<!-- printed by: (.+?) -->\n(.*?)<!-- end -->", "".join(PAGES.values()), re.DOTALL)
    assert len(blocks) > 10 and [command for command, text in blocks if not text.strip()] == []
