"""`peft-mudpt doctor`, and what it reads in the metadata of the package."""

import getpass
import re
import sys
from email.message import Message
from pathlib import Path

import pytest

from peft_mudpt_cli import doctor, extras
from peft_mudpt_cli.doctor import without_names
from peft_mudpt_cli.extras import Extra, read_extras
from tests.conftest import refusal_by_transformers
from tests.test_versions import PROJECT, ROOT


README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def diagnosis(run_command, monkeypatch):
    """What the command finds in an installation that lacks some extras."""
    found = [Extra("", "", ["torch 2.13.0"], []), Extra("cluster", "many machines", [], ["ray"])]
    monkeypatch.setattr(doctor, "read_extras", lambda _: found)
    return lambda: run_command("doctor")


def test_it_describes_this_installation(diagnosis, tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_MUDPT_CACHE", str(tmp_path / "cache"))
    done = diagnosis()
    assert done.code == 0, done.stdout
    answers = dict(re.findall(r"^([\w' ]+?)  +(.+)$", done.stdout, re.MULTILINE))
    assert ", threads " in answers["device"]
    assert answers["cache"] == f"{tmp_path / 'cache'}, can be written" and list(tmp_path.iterdir()) == []
    assert answers["MuDPT on a CLIP"] == "yes"
    add_adapter = answers["transformers' add_adapter"]
    assert (
        add_adapter == "yes"
        if refusal_by_transformers() is None
        else re.match(r"not needed: PEFT's get_peft_model .*\(it fails here: \w+Error: ", add_adapter)
    )
    assert answers["cluster"] == "not installed: ray (for many machines)"
    assert "required: torch 2.13.0" in done.stdout


def test_it_says_why_the_package_cannot_run_and_ends_with_1(diagnosis, monkeypatch):
    def fail():
        raise ImportError("PEFT is too old\nmore lines")

    monkeypatch.setattr(doctor, "QUESTIONS", {"device": fail, doctor.NECESSARY: fail})
    done = diagnosis()
    assert done.code == 1 and "no: ImportError: PEFT is too old\n" in done.stdout and "more lines" not in done.stdout


def test_a_question_without_a_good_answer_is_no_failure_if_the_package_can_run(diagnosis, monkeypatch):
    monkeypatch.setattr(doctor, "QUESTIONS", {"device": lambda: 1 / 0, doctor.NECESSARY: lambda: "yes"})
    done = diagnosis()
    assert done.code == 0 and "no: ZeroDivisionError" in done.stdout


def test_a_cache_that_cannot_be_written_is_reported(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PEFT_MUDPT_CACHE", str(tmp_path / "file"))
    assert not doctor._attempt(doctor._cache).is_good


def test_a_torchao_that_peft_refuses_is_reported_and_the_package_can_run(diagnosis, monkeypatch):
    def refuse():
        raise ImportError("Found an incompatible version of torchao.")

    monkeypatch.setattr("peft.tuners.lora.torchao.is_torchao_available", refuse)
    done = diagnosis()
    assert done.code == 0
    assert re.search("^LoRA on a CLIP +no: ImportError: .*torchao", done.stdout, re.MULTILINE)
    assert re.search("^MuDPT on a CLIP +yes$", done.stdout, re.MULTILINE)


def test_it_prints_no_home_folder_and_no_user_name(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/alice"))
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    text = "/home/alice/.cache and /scratch/alice/x but malice, /scratch/alice-2 and alice.txt"
    assert without_names(text) == "~/.cache and /scratch/USER/x but malice, /scratch/alice-2 and alice.txt"


def test_requirements_are_looked_up_through_extras_that_include_others(monkeypatch):
    about = Message()
    about["Name"] = "some-package"
    about["Requires-Dist"] = "old-one>=2.0"
    about["Requires-Dist"] = "some_package[report]; extra == 'cli'"
    about["Requires-Dist"] = "plots; extra == 'report'"
    about["Requires-Dist"] = "plots; extra == 'cli'"
    about["Requires-Dist"] = "never; python_version < '3' and extra == 'report'"
    about["Description"] = "| `cli` | the command |\n| `report` | plots |\n"
    monkeypatch.setattr(extras, "_version", {"old-one": "1.5", "plots": "0.1.dev0"}.get)
    assert read_extras(about) == [
        Extra("", "", [], ["old-one >=2.0 (found 1.5)"]),
        Extra("cli", "the command", ["plots 0.1.dev0"], []),
        Extra("report", "plots", ["plots 0.1.dev0"], []),
    ]


def test_the_readme_says_of_every_extra_what_needs_it():
    assert [name for name, _ in extras.ROW.findall(README)] == [
        name
        for name in PROJECT["optional-dependencies"]
        if name not in ("test", "dev")  # for those who change the code
    ]


def test_what_is_always_required_belongs_to_no_extra():
    required, *others = read_extras(sys.modules["importlib.metadata"].metadata("peft_mudpt"))
    assert required.missing == [] and any(found.startswith("torch ") for found in required.installed)
    assert not any(found.startswith("torch ") for extra in others for found in extra.installed)
