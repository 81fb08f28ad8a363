"""The page on surprises names what the script tries, and every script of findings/."""

import re
from pathlib import Path

import pytest

from tests.test_docs import PAGES, ROOT


PAGE = PAGES["docs/library_surprises.md"]


@pytest.mark.filterwarnings("ignore")
def test_each_row_of_the_page_is_tried_and_what_holds_is_printed(run_script):
    done = run_script("library_surprises.py")
    printed = [row.split(" | ") for row in done.stdout.splitlines()[2:]]
    block = re.search(r"<!-- printed by: python examples/library_surprises.py -->\n(.+?)<!-- end -->", PAGE, re.DOTALL)
    rows = [row.split(" | ")[0] for row in block[1].splitlines()[2:]]
    assert {row[0] for row in printed} <= {*rows}
    told = [line for line in done.stderr.splitlines() if line.startswith(("not tried", "no longer so"))]
    assert len(printed) + len(told) == len(rows)


def test_each_script_with_pinned_versions_has_a_row():
    scripts = {path.name for path in Path(ROOT / "findings").glob("*.sh")}
    assert {*re.findall(r"\(\.\./findings/(\w+\.sh)\)", PAGE)} == scripts
