"""Runs that are killed end as if nothing had happened. `python -m tests.kills` kills many more of them."""

import os
import re
import sys

import pytest

from tests import kills


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed runs are forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12
@pytest.mark.usefixtures("fresh_accelerator")
def test_after_a_kill_the_same_command_ends_as_an_undisturbed_run_and_touches_nothing_else(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kills", "--cases", "adapter", "--kills", "5", "--disks", "2"])
    kills.main()
    assert int(re.search(r"^(\d+) kills", capsys.readouterr().out, re.MULTILINE)[1]) == 5
