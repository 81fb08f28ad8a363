"""The command `peft-mudpt`, its help and its errors."""

import re
import runpy
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from peft_mudpt.lab import terminal
from peft_mudpt_cli import command
from peft_mudpt_cli.command import COMMANDS, PROGRAM, main
from tests.test_docs import PAGES
from tests.test_versions import PROJECT


# What it prints, and then the modules that it has imported.
IMPORTED = """
import atexit, sys
from peft_mudpt_cli.command import main
atexit.register(lambda: print(*sys.modules))
main()
"""


@pytest.mark.parametrize(
    "words", [["--help"], ["predict", "--help"], ["report", "--no-such-flag"], ["export"]], ids=" ".join
)
def test_help_and_mistakes_need_neither_torch_nor_the_package(words):
    done = subprocess.run([sys.executable, "-c", IMPORTED, *words], capture_output=True, text=True)
    *_, imported = done.stdout.splitlines()
    assert "usage: " in done.stdout + done.stderr
    assert "peft_mudpt_cli.command" in imported.split()
    assert {"torch", "transformers", "peft", "peft_mudpt"}.isdisjoint(imported.split())


def test_help_lists_every_command(run_command):
    done = run_command("--help")
    assert done.code == 0
    assert re.findall(r"^    (\w+)(?: |$)", done.stdout, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_examples_that_name_it(run_command, name):
    done = run_command(name, "--help")
    assert done.code == 0
    assert f"usage: peft-mudpt {name} " in done.stdout and f"examples:\n  peft-mudpt {name}" in done.stdout


def test_help_and_the_page_explain_the_exit_codes(run_command):
    in_help = re.findall(r"^  (\d+) ", run_command("--help").stdout, re.MULTILINE)
    on_page = re.findall(r"^\| (\d+) \|", PAGES["docs/command.md"], re.MULTILINE)
    codes = [0, 1, terminal.USER_ERROR, terminal.DIVERGED, terminal.IN_USE, terminal.INTERRUPTED]
    assert in_help == on_page == list(map(str, codes))


def test_the_page_lists_every_command():
    table = PAGES["docs/command.md"].partition("## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(COMMANDS)


def test_without_a_command_the_help_is_printed(run_command):
    done = run_command()
    assert done.code == terminal.USER_ERROR and done.stdout == run_command("--help").stdout


def test_an_unknown_command_is_refused(run_command):
    done = run_command("no_such_command")
    assert done.code == terminal.USER_ERROR and "COMMAND" in done.stderr.splitlines()[-1]


def test_a_package_that_is_not_installed_is_named_with_what_installs_it(run_command, monkeypatch):
    def load(name):
        raise ModuleNotFoundError("No module named 'accelerate'", name="accelerate")

    monkeypatch.setattr(command, "load", load)
    done = run_command("train")
    assert done.code == terminal.USER_ERROR
    assert done.stderr.startswith("peft-mudpt train: error: No module named 'accelerate'")
    assert 'pip install "peft_mudpt[cli]"' in done.stderr


def test_packages_of_the_extra_are_asked_for_before_the_libraries_are_imported(run_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    done = run_command("train")
    assert done.code == terminal.USER_ERROR and done.stderr.startswith("peft-mudpt train: error: it needs Pillow. ")
    assert 'pip install "peft_mudpt[cli]"' in done.stderr and run_command("train", "--help").code == 0


def test_an_interruption_while_libraries_are_imported_is_one_line(run_command, monkeypatch):
    def load(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "load", load)
    done = run_command("train")
    assert (done.code, done.stderr) == (terminal.INTERRUPTED, "peft-mudpt train: interrupted\n")


def test_the_program_that_pip_installs_is_the_command():
    program = PROJECT["scripts"][PROGRAM]
    assert EntryPoint(PROGRAM, program, "console_scripts").load() is main


def test_the_package_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["some/where/__main__.py", "report", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("peft_mudpt", run_name="__main__")
    assert end.value.code == 0 and "usage: peft-mudpt report" in capsys.readouterr().out
