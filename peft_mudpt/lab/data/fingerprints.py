"""Fingerprints of pictures: two pictures with the same fingerprint are the same file, byte for byte."""

from __future__ import annotations

import hashlib
from pathlib import Path


def fingerprint(example: dict) -> str:
    """
    Compute the SHA-256 of a picture file. The picture is not decoded.

    Args:
        example: an example of a split of `FewShotData`. Its `image` has the `bytes` of the file, or its `path`.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: if the file cannot be read.
    """
    image = example["image"]
    if image["bytes"] is not None:
        return hashlib.sha256(image["bytes"]).hexdigest()
    try:
        return hashlib.sha256(Path(image["path"]).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{example['item']} cannot be read: {error}. Replace or remove it.") from error
