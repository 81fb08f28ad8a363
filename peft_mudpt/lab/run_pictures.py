"""Finds the pictures of a finished run again."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Optional, Union

from huggingface_hub.errors import HTTPError

from .data.fingerprints import fingerprint
from .data.options import DataOptions
from .data.sources import load_data, load_named
from .identity import PICTURES, as_identity
from .protocols import TRANSFER_PROTOCOLS
from .run_folder import RUN, read_identity


if TYPE_CHECKING:
    from datasets import Dataset

TRAINING, VALIDATION = "training", "validation"
Image = dict[str, Any]  # `bytes` and `path`, as `open_picture` takes it; one of them may be None


class RunPictures:
    """
    The pictures of a finished run, as far as they are where they were, and unchanged.

    Args:
        folder: the folder of the run. Its `run.json` says where the pictures were, and what they were.
        dataset: name of the training data, as in the result of the run.
    """

    def __init__(self, folder: Path, dataset: str):
        self.dataset = dataset
        identity = read_identity(folder)
        self._identity = None if identity is None else as_identity(identity)  # with options of later versions
        self._places = cache(self._find_places)  # by data set, because loading one may take long

    def find(self, part: str, item: str) -> Image:
        """
        Find a picture.

        Args:
            part: `TRAINING`, `VALIDATION`, or the name of a test set.
            item: the picture, as the result names it.

        Returns:
            The picture.

        Raises:
            ValueError: if the picture is not found, or is another one now. The message does not name the picture, so
                that it can be said once of many.
        """
        if self._identity is None:
            raise ValueError(f"{RUN}, which says where the pictures are, is missing or damaged")
        image = self._image(part, item)
        known = self._noted(part)
        try:
            changed = item in known and known[item].split(" ")[0] != fingerprint({"image": image, "item": item})
        except ValueError:
            raise ValueError("the files are not where they were") from None
        if changed:
            raise ValueError("the files were changed since the run")
        return image

    def classes(self, part: str) -> dict[str, str]:
        """
        Tell the classes of the pictures.

        Args:
            part: see `find`.

        Returns:
            The class of each picture, by item; empty if the run has not noted them.
        """
        return {item: noted.split(" ", 1)[1] for item, noted in self._noted(part).items()}

    def _noted(self, part: str) -> dict[str, str]:
        """The fingerprint and the class of each picture, by item, as the run has noted them."""
        parts = (self._identity or {}).get(PICTURES, {})
        return parts.get(part) or parts.get(f"{part} test") or {}  # see `identity.pictures_of`

    def _image(self, part: str, item: str) -> Image:
        is_drawn = part in (TRAINING, VALIDATION)
        transfers = self._identity["protocol"] in TRANSFER_PROTOCOLS
        other = part if transfers and not is_drawn and part != self.dataset else None
        folder = self._identity["train_dir"]
        if folder is not None and other is None:
            test_folder = None if is_drawn else self._identity["test_dir"]
            return {"path": str(Path(test_folder or folder) / _inside(item)), "bytes": None}
        places = self._places(other)
        if isinstance(places, ValueError):
            raise places
        if item not in places:
            raise ValueError("the data set does not hold them any more")
        split, position = places[item]
        return split[position]["image"]

    def _find_places(self, other: Optional[str]) -> Union[dict[str, tuple[Dataset, int]], ValueError]:
        """The split and the position of each picture of the training data, or of another data set; or what fails."""
        options = DataOptions(**{option.name: self._identity[option.name] for option in fields(DataOptions)})
        try:
            data = load_data(options) if other is None else load_named(other, options.coop_root)
        except (ValueError, OSError, ImportError, HTTPError) as error:
            return ValueError(f"the data set cannot be loaded: {error}")
        splits = [split for split in (data.train, data.validation, data.test) if split is not None]
        return {item: (split, i) for split in splits for i, item in enumerate(split["item"][:])}


def _inside(item: str) -> PurePosixPath:
    """The path of a picture in the folder of pictures."""
    path = PurePosixPath(item)
    if path.is_absolute() or ".." in path.parts:  # no run has written such a name
        raise ValueError("their names lead out of the folder of pictures")
    return path
