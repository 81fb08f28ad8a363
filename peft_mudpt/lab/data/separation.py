"""Keeps pictures that belong together, such as copies of one file, on one side of every split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .files import listed
from .fingerprints import fingerprint


PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Picture:
    """
    A picture file of a class folder.

    Args:
        path: the file.
        label: label of its class.
        item: its path relative to the folder that holds the class folders, with "/" between folders.
        group: name of its group; None: the picture is a group by itself.
    """

    path: Path
    label: int
    item: str
    group: Optional[str] = None


def keep_apart(parts: Mapping[str, Sequence[Picture]]) -> tuple[dict[str, list[Picture]], list[int], list[str]]:
    """
    Remove training pictures that are also validation or test pictures, and validation pictures that are also test
    pictures, because an accuracy on pictures that were trained on says nothing. Pictures are the same if their files
    are equal, byte for byte.

    Args:
        parts: the pictures of some of the `PARTS`.

    Returns:
        The remaining pictures of each of these parts; for each remaining training picture, the number of its group;
        and remarks. Training pictures have the same number if they are equal, or if their `group` is.
    """
    everything = [(part, picture) for part in reversed(PARTS) for picture in parts.get(part, ())]
    same = [[everything[i] for i in indices] for indices in equal_files([picture.path for _, picture in everything])]
    removed = {picture: pictures[0][0] for pictures in same for part, picture in pictures if part != pictures[0][0]}
    kept = {part: [p for p in pictures if p not in removed] for part, pictures in parts.items()}
    remarks = [
        f"{len(items)} pictures that are also {part} pictures, no longer used otherwise: {listed(sorted(items))}"
        for part in PARTS[1:]
        if (items := [picture.item for picture, other in removed.items() if other == part])
    ]
    return kept, _group_numbers(kept["train"], same), [*_remarks_on_equals(same), *remarks]


def equal_files(paths: Sequence[Path]) -> list[list[int]]:
    """
    Find equal files. Only files of the same size are read. Files that are empty or cannot be read are equal to none.

    Args:
        paths: N files.

    Returns:
        For each content that several files have, their positions in `paths`, in ascending order.
    """
    by_size, by_content = defaultdict(list), defaultdict(list)
    for i, path in enumerate(paths):
        try:
            by_size[path.stat().st_size].append(i)
        except OSError:
            continue  # the error names the file when it is used
    for size, indices in by_size.items():
        for i in indices if size and len(indices) > 1 else ():
            try:
                content = fingerprint({"image": {"bytes": None, "path": paths[i]}, "item": str(paths[i])})
            except ValueError:
                continue
            by_content[content].append(i)
    return [indices for indices in by_content.values() if len(indices) > 1]


def _group_numbers(pictures: Sequence[Picture], same: Iterable[Sequence[tuple[str, Picture]]]) -> list[int]:
    place = {picture: i for i, picture in enumerate(pictures)}
    together = defaultdict(list)
    for i, picture in enumerate(pictures):
        if picture.group is not None:
            together[picture.group].append(i)
    equal = [[place[picture] for _, picture in known if picture in place] for known in same]
    number = list(range(len(pictures)))

    def root(i: int) -> int:
        while number[i] != i:
            i = number[i]
        return i

    for members in (*together.values(), *filter(None, equal)):
        joined = min(map(root, members))
        for i in members:
            number[root(i)] = joined
    return [root(i) for i in range(len(pictures))]


def _remarks_on_equals(same: Sequence[Sequence[tuple[str, Picture]]]) -> list[str]:
    agreeing, contradicting = [], []
    for known in same:
        one_part = len({part for part, _ in known}) == 1
        names = [picture.item if one_part else f"{picture.item} ({part})" for part, picture in known]
        if len({picture.label for _, picture in known}) > 1:
            contradicting.append(names)
        elif one_part:
            agreeing.append(names)
    remarks = {
        "equal files of one class, kept together in every split": agreeing,
        "equal files in several classes; keep only the right one": contradicting,
    }
    return [
        f"{sum(map(len, sets))} {what}: "
        + listed([" = ".join(names[:3]) + (" = ..." if len(names) > 3 else "") for names in sets])
        for what, sets in remarks.items()
        if sets
    ]
