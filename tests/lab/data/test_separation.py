"""Pictures that belong together stay on one side of every split."""

from collections import Counter

import pytest

from peft_mudpt.lab.data import separation
from peft_mudpt.lab.data.separation import Picture, equal_files, hold_out, keep_apart


def third(n: int) -> int:
    return int(0.3 * n)


def written(folder, **contents: bytes) -> dict[str, Picture]:
    """A picture for each name; its label is the number at the end of the name."""
    pictures = {}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        pictures[name] = Picture(folder / name, int(name[-1]), name)
    return pictures


def test_without_groups_the_choice_is_that_of_earlier_versions():
    labels = [0] * 10 + [1] * 7 + [2] * 3
    assert hold_out(labels, range(20), third, seed=0) == [1, 6, 8, 12, 13]


@pytest.mark.parametrize(
    "groups",
    [
        {0: [5, 1, 1, 1, 1, 1]},  # one picture five times
        {0: [2, 2, 2, 2, 2]},
        {0: [10, 10], 1: [10, 10, 10]},  # two patients, and three
        {0: [3, 3], 1: [4, 5, 1]},
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_groups_are_not_separated_and_each_class_has_pictures_on_both_sides(groups, seed):
    labels = [label for label, sizes in groups.items() for n in sizes for _ in range(n)]
    numbers = [(label, k) for label, sizes in groups.items() for k, n in enumerate(sizes) for _ in range(n)]
    chosen = set(hold_out(labels, numbers, third, seed))
    others = set(range(len(labels))) - chosen
    assert not {numbers[i] for i in chosen} & {numbers[i] for i in others}
    assert {labels[i] for i in chosen} == {labels[i] for i in others} == set(groups)


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [([1] * 10, 3), ([5, 1, 1, 1, 1, 1], 3), ([2] * 5, 2), ([6, 4], 4), ([10] * 3, 10), ([3, 3], 3), ([2, 1], 0)],
)
@pytest.mark.parametrize("seed", range(3))
def test_whole_groups_come_as_near_to_the_number_as_they_can_from_below(sizes, chosen, seed):
    groups = [k for k, n in enumerate(sizes) for _ in range(n)]
    assert len(hold_out([0] * len(groups), groups, third, seed)) == chosen


def test_a_class_that_is_one_group_is_not_held_out():
    assert hold_out([0] * 8, [0] * 8, third, seed=0) == []


def test_a_group_of_two_classes_leaves_a_picture_of_both():
    labels, groups = [0, 0, 1, 1, 1, 1], [0, 1, 0, 2, 3, 4]
    for seed in range(5):
        chosen = hold_out(labels, groups, lambda n: 1, seed)
        assert (0 in chosen) == (2 in chosen) and len({labels[i] for i in range(6) if i not in chosen}) == 2


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
