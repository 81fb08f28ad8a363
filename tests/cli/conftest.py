import sys

import pytest

from peft_mudpt_cli.command import main
from tests.conftest import Done


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Run `peft-mudpt` as a user calls it, but in this process, because a new one takes seconds to import torch."""

    def run(*arguments) -> Done:
        monkeypatch.setattr(sys, "argv", ["bin/peft-mudpt", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return Done(end.code, *capsys.readouterr())
        return Done(0, *capsys.readouterr())

    return run
