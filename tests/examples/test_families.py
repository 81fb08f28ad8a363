"""The table of what works with which model family."""

import pytest

from tests.test_docs import PAGES


@pytest.mark.filterwarnings("ignore")
def test_a_row_of_the_table_and_its_refusal_are_what_is_computed_now(run_script):
    printed = run_script("families.py", "--families", "siglip2").stdout
    header, rule, row, _, refusal = printed.rstrip("\n").split("\n")
    assert "refused (1)" in row and refusal.startswith("(1) ") and "image_features" in refusal
    for line in (header, rule, row, refusal):
        assert f"\n{line}\n" in PAGES["docs/families.md"]


def test_an_unknown_family_is_refused_with_the_known_ones(run_script):
    done = run_script("families.py", "--families", "clip,blip")
    assert done.code == 2 and "['blip']; choose from clip, metaclip_2" in done.stderr
