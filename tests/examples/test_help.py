"""The help texts of the scripts."""

import re
import runpy
import sys
from pathlib import Path

import pytest


EXAMPLES = Path(__file__).parents[2] / "examples"
WITH_FLAGS = re.compile(r"ArgumentParser|parse_\w+|peft_mudpt_cli")
SCRIPTS = [path for path in sorted(EXAMPLES.glob("*.py")) if WITH_FLAGS.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_prints_its_help(script, monkeypatch, capsys):
    if "federated" in script.name:
        pytest.importorskip("flwr", reason="Flower needs Python 3.11")
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0 and "usage: " in capsys.readouterr().out
