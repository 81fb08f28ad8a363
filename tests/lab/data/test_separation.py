"""Pictures that belong together stay on one side of every split."""

from collections import Counter

from peft_mudpt.lab.data import separation
from peft_mudpt.lab.data.separation import Picture, equal_files, keep_apart


def written(folder, **contents: bytes) -> dict[str, Picture]:
    """A picture for each name; its label is the number at the end of the name."""
    pictures = {}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        pictures[name] = Picture(folder / name, int(name[-1]), name)
    return pictures


def test_equal_files_are_found_and_only_files_of_equal_size_are_read(tmp_path, monkeypatch):
    contents = {"a0": b"one", "b0": b"two", "c0": b"one", "d0": b"longer", "e0": b"", "f0": b""}
    paths = [picture.path for picture in written(tmp_path, **contents).values()]
    read, fingerprint = [], separation.fingerprint
    monkeypatch.setattr(
        separation, "fingerprint", lambda example: read.append(example["item"]) or fingerprint(example)
    )
    assert equal_files([*paths, tmp_path / "missing"]) == [[0, 2]]
    assert read == list(map(str, paths[:3]))


def test_a_training_picture_that_is_tested_is_removed_from_training(tmp_path):
    p = written(tmp_path, a0=b"1", b0=b"2", c0=b"3", d0=b"1", e0=b"2", f0=b"2")
    parts = {"train": [p["a0"], p["b0"], p["c0"]], "validation": [p["e0"]], "test": [p["d0"], p["f0"]]}
    kept, groups, remarks = keep_apart(parts)
    assert kept == {"train": [p["c0"]], "validation": [], "test": [p["d0"], p["f0"]]} and len(groups) == 1
    assert any("test" in remark and remark.endswith(": a0, b0, e0") for remark in remarks)


def test_equal_pictures_and_pictures_of_a_group_have_one_number(tmp_path):
    p = written(tmp_path, a0=b"1", b0=b"2", c0=b"1", d0=b"3", e0=b"4")
    named = [Picture(q.path, 0, q.item, group="anna" if q.item in ("c0", "d0") else None) for q in p.values()]
    _, groups, _ = keep_apart({"train": named})
    assert Counter(Counter(groups).values()) == {3: 1, 1: 2} and groups[0] == groups[2] == groups[3]


def test_remarks_count_and_name_equal_files(tmp_path):
    p = written(tmp_path, a0=b"1", b0=b"1", c0=b"2", d1=b"2", e1=b"3")
    _, _, (agreeing, contradicting) = keep_apart({"train": list(p.values())})
    assert agreeing.startswith("2 ") and agreeing.endswith(": a0 = b0")
    assert contradicting.startswith("2 ") and "classes" in contradicting and contradicting.endswith(": c0 = d1")


def test_equal_files_of_several_classes_in_training_and_test_say_where_they_are(tmp_path):
    p = written(tmp_path, a0=b"1", b1=b"1", c0=b"2")
    _, _, remarks = keep_apart({"train": [p["a0"], p["c0"]], "test": [p["b1"]]})
    assert any(remark.endswith(": b1 (test) = a0 (train)") for remark in remarks)
