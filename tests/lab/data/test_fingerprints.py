import hashlib

import pytest

from peft_mudpt.lab.data.fingerprints import fingerprint


def example(path=None, content=None) -> dict:
    return {"item": "cat/1.png", "label": 0, "image": {"path": path, "bytes": content}}


def test_a_file_and_its_bytes_have_the_same_fingerprint(tmp_path):
    (tmp_path / "1.png").write_bytes(b"picture")
    expected = hashlib.sha256(b"picture").hexdigest()
    assert fingerprint(example(str(tmp_path / "1.png"))) == fingerprint(example(content=b"picture")) == expected


def test_one_other_byte_changes_the_fingerprint():
    assert fingerprint(example(content=b"picture")) != fingerprint(example(content=b"pictura"))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="cat/1.png"):
        fingerprint(example(str(tmp_path / "missing.png")))
