"""Draws, compared with recorded draws of CoOp's published code (tests/golden/README.md)."""

import json
from collections import Counter
from pathlib import Path

import pytest

from peft_mudpt.lab import base_new_split, sample_few_shot


GOLDEN = Path(__file__).parents[2] / "golden" / "sampling"
DRAWS = [(seed, shots) for seed in (1, 2, 3) for shots in (1, 2, 4, 8, 16)]
LABELS = [2, 0, 1, 0, 2, 0, 1, 0, 2, 2]


def golden(name: str) -> tuple[dict, dict[str, list[int]]]:
    """The recorded draws, and the labels of each split."""
    recorded = json.loads((GOLDEN / f"{name}.json").read_text())
    sizes = recorded["class_sizes"].items()
    return recorded, {split: [label for label, n in enumerate(ns) for _ in range(n)] for split, ns in sizes}


@pytest.mark.parametrize(("seed", "shots"), DRAWS)
def test_the_draws_from_caltech101_are_coops(seed, shots):
    recorded, labels = golden("Caltech101")
    train, validation = sample_few_shot(labels["train"], labels["val"], shots, seed)
    expected = recorded["draws"][f"seed{seed}_shots{shots}"]
    assert train == expected["train"] and validation == expected["val"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_draws_from_describable_textures_are_coops(split):
    # The record has names, but no indices. If the draws are equal, each index has one name, and each name one index.
    recorded, labels = golden("DescribableTextures")
    name_of, index_of = {}, {}
    for seed, shots in DRAWS:
        drawn = sample_few_shot(labels["train"], labels["val"], shots, seed)[split == "val"]
        names = recorded["draws"][f"seed{seed}_shots{shots}"][split]
        assert len(drawn) == len(names)
        for index, name in zip(drawn, names):
            assert name_of.setdefault(index, name) == name and index_of.setdefault(name, index) == index


@pytest.mark.parametrize("name", ["Caltech101", "DescribableTextures"])
def test_base_and_new_classes_have_coops_sizes(name):
    recorded, labels = golden(name)
    halves = base_new_split(labels["train"])
    for half, classes in zip(("base", "new"), halves):
        sizes = {split: sum(label in classes for label in labels[split]) for split in labels}
        assert {**sizes, "classes": len(classes)} == recorded[half]


def test_an_odd_number_of_classes_gives_one_more_base_class():
    assert base_new_split([4, 1, 7, 1, 9, 3]) == ([1, 3, 4], [7, 9])


def test_three_classes_are_too_few_for_base_and_new():
    with pytest.raises(ValueError, match="at least two .* 3 classes"):
        base_new_split([3, 1, 2, 3])


def test_every_class_gives_its_shots():
    drawn, _ = sample_few_shot(LABELS, [], shots=2, seed=1)
    assert Counter(LABELS[i] for i in drawn) == {0: 2, 1: 2, 2: 2}
    assert len(set(drawn)) == len(drawn)


def test_a_class_with_fewer_gives_all_it_has():
    drawn, _ = sample_few_shot(LABELS, [], shots=3, seed=1)
    assert Counter(LABELS[i] for i in drawn) == {0: 3, 1: 2, 2: 3}


def test_validation_has_no_more_than_four_shots():
    _, drawn = sample_few_shot([], [0] * 9 + [1] * 9, shots=8, seed=1)
    assert Counter(i // 9 for i in drawn) == {0: 4, 1: 4}


def test_no_shots_are_refused():
    with pytest.raises(ValueError, match="shots=0"):
        sample_few_shot(LABELS, [], shots=0, seed=1)
