"""What the package requires, and the extras that it offers, as its own metadata tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, PackageNotFoundError, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


ROW = re.compile(r"^\| `([a-z]+)` \| ([^|]+) \|$", re.MULTILINE)  # of the table of extras in the README


@dataclass(frozen=True)
class Extra:
    """
    Packages that something optional needs.

    Args:
        name: name of the extra, as in `pip install peft_mudpt[name]`; empty: what the package always needs.
        purpose: what needs it; empty for what the package always needs.
        installed: the packages that are installed, with their versions.
        missing: the packages that are not installed, or too old.
    """

    name: str
    purpose: str
    installed: list[str]
    missing: list[str]


def read_extras(metadata: PackageMetadata) -> list[Extra]:
    """
    Read the requirements of a package, and look which are installed.

    Args:
        metadata: the metadata of the package (see `importlib.metadata.metadata`).

    Returns:
        What it always requires, and then each extra that the README, which is a part of the metadata, explains.
    """
    extras = []
    for name, purpose in [("", ""), *ROW.findall(metadata["Description"] or "")]:
        installed, missing = [], []
        for requirement in _requirements(metadata, name):
            found = _version(requirement.name)
            if found is None:
                missing.append(requirement.name)
            elif not requirement.specifier.contains(found, prereleases=True):
                missing.append(f"{requirement.name} {requirement.specifier} (found {found})")
            else:
                installed.append(f"{requirement.name} {found}")
        # an extra may include two that need the same package
        extras.append(Extra(name, purpose, list(dict.fromkeys(installed)), list(dict.fromkeys(missing))))
    return extras


def _requirements(metadata: PackageMetadata, extra: str) -> Iterator[Requirement]:
    """The requirements of an extra on this Python and platform; those without an extra if it is empty."""
    for requirement in map(Requirement, metadata.get_all("Requires-Dist") or ()):
        if not _belongs_to(requirement, extra) or (extra and _belongs_to(requirement, "")):
            continue
        if canonicalize_name(requirement.name) == canonicalize_name(metadata["Name"]):  # it includes other extras
            for included in sorted(requirement.extras):
                yield from _requirements(metadata, included)
        else:
            yield requirement


def _belongs_to(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
