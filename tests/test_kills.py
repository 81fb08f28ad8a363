"""Runs that are killed end as if nothing had happened. `python -m tests.kills` kills many more of them."""

import os
import re

import pytest

from tests.conftest import launch


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed runs are forks")
def test_after_a_kill_the_same_command_ends_as_an_undisturbed_run_and_touches_nothing_else():
    ended = launch("-m", "tests.kills", "--cases", "adapter", "--kills", 5, "--disks", 2)
    assert ended.returncode == 0, ended.stderr
    assert int(re.search(r"^(\d+) kills", ended.stdout, re.MULTILINE)[1]) == 5
