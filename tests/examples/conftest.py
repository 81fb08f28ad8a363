"""Runs a script as a user calls it, but in this process, because a new one takes seconds to start."""

import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import pytest


EXAMPLES = Path(__file__).parents[2] / "examples"


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_script(monkeypatch, capsys):
    def run(name, *arguments) -> Done:
        script = str(EXAMPLES / name)
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            return Done(end.code, *capsys.readouterr())
        return Done(0, *capsys.readouterr())

    return run
