"""Which pictures are held out: whole groups of each class, and nearly the same ones of a data set that grew."""

import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_mudpt.lab.data.held_out import hold_out, random_order


def third(n: int) -> int:
    return int(0.3 * n)


def named(labels):
    """An item for each picture, as class folders have them."""
    return [f"{label}/{i}.png" for i, label in enumerate(labels)]


def chosen_of(numbers, seed=0):
    """The items that are held out of classes with these numbers of pictures, without groups."""
    pictures = [(f"{name}/{i}.png", label) for label, (name, n) in enumerate(numbers.items()) for i in range(n)]
    items, labels = map(list, zip(*pictures))
    return {items[i] for i in hold_out(items, labels, range(len(items)), third, seed)}


NUMBERS = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 30), min_size=2, max_size=6)


@settings(max_examples=50, deadline=None)
@given(NUMBERS, st.integers(0, 3))
def test_a_class_more_leaves_the_held_out_pictures_of_the_others(numbers, seed):
    apart = [chosen_of({name: n}, seed) for name, n in numbers.items()]
    assert chosen_of(numbers, seed) == set().union(*apart)


@settings(max_examples=50, deadline=None)
@given(NUMBERS, st.data())
def test_a_picture_more_changes_the_side_of_one_other_at_most(numbers, data):
    name = data.draw(st.sampled_from(sorted(numbers)))
    before, after = chosen_of(numbers), chosen_of({**numbers, name: numbers[name] + 1})
    assert len((before ^ after) - {f"{name}/{numbers[name]}.png"}) <= 1


def test_the_order_is_that_of_sha256():
    # for i in 0 1 2 3 4 5; do printf '7 cat/%s.png' $i | sha256sum; done
    items = [f"cat/{i}.png" for i in range(6)]
    assert random_order(items, seed=7) == [1, 4, 2, 3, 5, 0]


def test_the_order_is_the_same_however_a_system_writes_a_name():
    items = [f"caf\u00e9/{i}.png" for i in range(9)]
    assert random_order(items, 1) == random_order([unicodedata.normalize("NFD", item) for item in items], 1)


def test_another_seed_gives_another_order_and_each_picture_may_come_first():
    orders = [random_order(named([0] * 5), seed) for seed in range(100)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert min(Counter(order[0] for order in orders).values()) > 5 and len(Counter(map(tuple, orders))) > 50


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
    chosen = set(hold_out(named(labels), labels, numbers, third, seed))
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
    labels = [0] * len(groups)
    assert len(hold_out(named(labels), labels, groups, third, seed)) == chosen


def test_a_class_that_is_one_group_is_not_held_out():
    assert hold_out(named([0] * 8), [0] * 8, [0] * 8, third, seed=0) == []


def test_a_group_of_two_classes_leaves_a_picture_of_both():
    labels, groups = [0, 0, 1, 1, 1, 1], [0, 1, 0, 2, 3, 4]
    for seed in range(5):
        chosen = hold_out(named(labels), labels, groups, lambda n: 1, seed)
        assert (0 in chosen) == (2 in chosen) and len({labels[i] for i in range(6) if i not in chosen}) == 2
