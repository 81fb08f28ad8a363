"""The versions that are supported are those that are tested: `.ci/versions` runs the suite on them."""

import re
import runpy
import sys
from pathlib import Path
from unittest import mock

from packaging.requirements import Requirement
from packaging.version import Version


ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def setup_arguments() -> dict:
    setuptools = mock.MagicMock()
    with mock.patch.dict(sys.modules, setuptools=setuptools):
        runpy.run_path(str(ROOT / "setup.py"))
    return setuptools.setup.call_args.kwargs


def floors() -> dict[str, Version]:
    """What setup.py asks for with `>=`, the one operator it should use."""
    arguments = setup_arguments()
    asked = [
        *arguments["install_requires"],
        *(line for extra in arguments["extras_require"].values() for line in extra),
    ]
    found = {}
    for requirement in map(Requirement, asked):
        for specifier in requirement.specifier:
            assert specifier.operator == ">=", requirement
            found[requirement.name.lower()] = Version(specifier.version)
    return found


def test_the_lowest_versions_tested_are_the_lowest_that_setup_admits():
    lines = [line.partition("#")[0].strip() for line in (ROOT / ".ci" / "lowest.txt").read_text().splitlines()]
    pins = [line.split("==") for line in lines if line]
    assert {name.lower(): Version(version) for name, version in pins} == floors()


def test_python_has_one_floor():
    floor = setup_arguments()["python_requires"].removeprefix(">=")
    assert f"lowest python{floor} " in (ROOT / ".ci" / "versions").read_text()
    assert f'target-version = "py{floor.replace(".", "")}"' in (ROOT / "pyproject.toml").read_text()


def test_pages_that_name_a_lowest_version_name_that_one():
    lowest = {**floors(), "python": Version(setup_arguments()["python_requires"].removeprefix(">="))}
    names = "|".join(lowest)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, version in re.findall(rf"\b({names})`?\s*(?:>=|≥|\|)\s*`?(\d+(?:\.\d+)+)", text, re.IGNORECASE):
            assert Version(version) == lowest[name.lower()], f"{page.name}: {name} {version}"
