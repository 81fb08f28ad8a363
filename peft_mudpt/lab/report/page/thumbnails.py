"""Makes small pictures that a page holds in itself."""

from __future__ import annotations

import base64
import io
from collections import Counter
from typing import NamedTuple, Optional

from ....classifier.pictures import open_picture
from ...run_pictures import RunPictures


SIDE = 192  # longest side, in pixels: sharp at half the size on the screen of a telephone
ENLARGED = SIDE // 2  # shorter pictures are enlarged by a page
MEGABYTES = 2  # of the files of one kind of pictures


class Thumbnail(NamedTuple):
    """A small picture: the address that holds its file, and its size in pixels."""

    address: str
    width: int
    height: int

    @property
    def is_small(self) -> bool:
        """True if a page enlarges it."""
        return max(self.width, self.height) < ENLARGED


class Thumbnails:
    """
    The small pictures of one kind, such as mistakes, up to a limit.

    Args:
        pictures: the pictures of the run.
        most: how many of them are made; and none after `MEGABYTES`. 0: the user asked for none.
    """

    def __init__(self, pictures: RunPictures, most: int):
        self.pictures = pictures
        self.most = most
        self.made = 0
        self.bytes = 0
        self.missing: Counter[str] = Counter()  # why pictures were not made, and how many

    def make(self, part: str, item: str) -> Optional[Thumbnail]:
        """
        Make a small picture.

        Args:
            part: see `RunPictures.find`.
            item: see `RunPictures.find`.

        Returns:
            The small picture; None if the picture is missing, or if there are enough. `missing` counts the reasons.
        """
        if self.made >= self.most or self.bytes >= MEGABYTES * 10**6:
            limit = f"{self.most} of a kind" if self.made >= self.most else f"{MEGABYTES} MB of a kind"
            self.missing[f"a page shows at most {limit}" if self.most else "the page was asked to show none"] += 1
            return None
        try:
            found = open_picture(self.pictures.find(part, item), "a picture")
        except ValueError as error:
            self.missing[str(error)] += 1
            return None
        kind = "PNG" if max(found.size) < ENLARGED else "JPEG"  # enlarged, the marks that JPEG leaves would show
        found.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        found.save(file, kind, quality=85)
        self.made += 1
        self.bytes += len(file.getvalue())
        text = base64.b64encode(file.getvalue()).decode()
        return Thumbnail(f"data:image/{kind.lower()};base64,{text}", *found.size)
