"""Finds the picture files of a folder, and counts the files that are left aside."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...classifier.pictures import register_formats
from ...optional import install
from ...rules import is_text


# Files and folders that an operating system adds to a user's folders, in lower case; hidden ones begin with a dot.
OF_THE_SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx")
WITHOUT_SUFFIX, LINK, SPECIAL = "without a suffix", "that are links to nothing", "that are no regular files"
ADVICE = {
    **dict.fromkeys((".heic", ".heif", ".hif"), install("heic")),
    WITHOUT_SUFFIX: "add one, such as .jpg",
}


def picture_suffixes() -> frozenset[str]:
    """
    List the suffixes of the picture formats that Pillow reads.

    Returns:
        The suffixes in lower case, such as ".jpg". HEIC's are among them if the package `pillow-heif` is installed.
    """
    from PIL import Image

    register_formats()
    known = Image.registered_extensions()
    # Pillow only writes some formats, such as PDF. It reads MPO by the reader of JPEG.
    return frozenset(suffix for suffix, kind in known.items() if kind in Image.OPEN or kind == "MPO")


def list_pictures(folder: Path) -> tuple[list[Path], Counter[str]]:
    """
    List the picture files of a folder and its subfolders: those whose suffix, in upper or lower case, is one of
    `picture_suffixes`. Hidden files and folders are skipped, and so are those that an operating system adds, such as
    Thumbs.db. A link to a folder is followed once; not to a folder that contains `folder`. No file is opened.

    Args:
        folder: an existing folder.

    Returns:
        The paths of the pictures, sorted, and the number of other files by kind (see `kind_of_file`).

    Raises:
        ValueError: if a folder cannot be read, or if the path of a picture is not UTF-8.
    """
    suffixes = picture_suffixes()
    pictures, left_aside = [], Counter()
    seen = {folder.resolve(), *folder.resolve().parents, folder.parent.resolve()}
    folders = [folder]
    while folders:
        for path in visible_entries(folders.pop()):
            if path.is_dir():
                if path.resolve() not in seen:
                    seen.add(path.resolve())
                    folders.append(path)
            elif (kind := kind_of_file(path)) in suffixes:
                pictures.append(path)
            else:
                left_aside[kind] += 1
    _refuse_undecodable(pictures)
    return sorted(pictures), left_aside


def visible_entries(folder: Path) -> list[Path]:
    """
    List the files and folders in a folder.

    Args:
        folder: an existing folder.

    Returns:
        Their paths, sorted, without hidden ones and those that an operating system adds.

    Raises:
        ValueError: if the folder cannot be read.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise ValueError(f"The folder {folder} cannot be read: {error.strerror}. Change its permissions.") from error
    return [path for path in paths if not path.name.startswith(".") and path.name.lower() not in OF_THE_SYSTEM]


def describe_left_aside(left_aside: Mapping[str, int]) -> str:
    """
    Describe files that were left aside.

    Args:
        left_aside: number of files by kind, as `list_pictures` counts them.

    Returns:
        The most frequent kinds with their numbers and what to do, such as "3 .md, 2 .txt".
    """
    kinds = Counter(left_aside).most_common()
    return listed([f"{n} {kind}" + (f" ({ADVICE[kind]})" if kind in ADVICE else "") for kind, n in kinds])


def listed(names: Sequence[str]) -> str:
    """
    List names in a message.

    Args:
        names: any number of names.

    Returns:
        The first five, separated by commas, and "..." if there are more.
    """
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def kind_of_file(path: Path) -> str:
    """
    Name the kind of a file.

    Args:
        path: a path that is no folder.

    Returns:
        The suffix in lower case, or `WITHOUT_SUFFIX`, `LINK` or `SPECIAL`.
    """
    if not path.is_file():
        return LINK if path.is_symlink() else SPECIAL
    suffix = path.suffix.lower().encode(errors="backslashreplace").decode()
    return suffix or WITHOUT_SUFFIX


def _refuse_undecodable(pictures: list[Path]) -> None:
    """Refuse paths that are not UTF-8, because neither a data set nor a result file can hold them."""
    wrong = [path for path in pictures if not is_text(str(path))]
    if wrong:
        named = listed([repr(os.fsencode(path))[2:-1] for path in wrong])
        raise ValueError(f"These paths of pictures are not UTF-8: {named}. Rename the files or folders.")
