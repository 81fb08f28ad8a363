"""The versions that are supported are those that are tested: `.ci/versions` runs the suite on them."""

import re
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version


try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, for which pytest installs tomli
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHON = PROJECT["requires-python"].removeprefix(">=")


def floors() -> dict[str, Version]:
    """What pyproject.toml asks for with `>=`, the one operator it should use."""
    extras = PROJECT["optional-dependencies"].values()
    asked = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    found = {}
    for requirement in map(Requirement, asked):
        for specifier in requirement.specifier:
            assert specifier.operator == ">=", requirement
            found[requirement.name.lower()] = Version(specifier.version)
    return found


def test_the_lowest_versions_tested_are_the_lowest_that_the_project_admits():
    lines = [line.partition("#")[0].strip() for line in (ROOT / ".ci" / "lowest.txt").read_text().splitlines()]
    pins = [line.split("==") for line in lines if line]
    assert {name.lower(): Version(version) for name, version in pins} == floors()


def test_python_has_one_floor():
    assert f"lowest python{PYTHON} " in (ROOT / ".ci" / "versions").read_text()
    assert f'target-version = "py{PYTHON.replace(".", "")}"' in (ROOT / "pyproject.toml").read_text()


def test_pages_that_name_a_lowest_version_name_that_one():
    lowest = {**floors(), "python": Version(PYTHON)}
    names = "|".join(lowest)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, version in re.findall(rf"\b({names})`?\s*(?:>=|≥|\|)\s*`?(\d+(?:\.\d+)+)", text, re.IGNORECASE):
            assert Version(version) == lowest[name.lower()], f"{page.name}: {name} {version}"


def test_the_citation_names_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == re.search(r'= "(.+)"', (ROOT / "peft_mudpt/_version.py").read_text())[1]


def test_a_bug_report_asks_for_what_doctor_prints():
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug_report.yml").read_text(encoding="utf-8"))
    fields = {part["id"]: part for part in form["body"]}
    assert "`peft-mudpt doctor`" in fields["doctor"]["attributes"]["description"]
    assert all(field["validations"]["required"] for field in fields.values())
