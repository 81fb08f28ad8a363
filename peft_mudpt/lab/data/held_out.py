"""Chooses the pictures of a data set that are held out from training, so that more pictures change few choices."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from hashlib import sha256

from ...rules import normalized


HELD_OUT = 0.3  # share of the pictures that is held out for testing if there is no test split


def random_order(items: Sequence[str], seed: int) -> list[int]:
    """
    Put pictures in a random order. Which of two pictures comes first depends on these two alone, not on the others.

    The order is that of the SHA-256 digests of seed and item, because these are the same on every machine.

    Args:
        items: strings that identify N pictures.
        seed: seed of the order.

    Returns:
        The positions of the pictures, in this order.
    """
    return sorted(range(len(items)), key=lambda i: sha256(f"{seed} {normalized(items[i])}".encode()).digest())


def hold_out(
    items: Sequence[str], labels: Sequence[int], groups: Sequence[int], number: Callable[[int], int], seed: int
) -> list[int]:
    """
    Choose pictures of each class at random, without separating groups.

    A group is taken if all of its pictures are wanted. If a class has no such group, its smallest group is taken.
    At least one picture of each class is not taken.

    The choice in a class does not depend on other classes, unless they share a group. If each picture is a group by
    itself and one is added, at most one of the others changes sides.

    Args:
        items: strings that identify N pictures. A picture keeps its place in the random order as long as it has the
            same one.
        labels: the labels of the pictures.
        groups: the numbers of their groups.
        number: maps the number of pictures of a class to the number that is wanted.
        seed: seed of the choice.

    Returns:
        The positions of the chosen pictures, in ascending order.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for i in random_order(items, seed):
        members[groups[i]].append(i)  # the groups are in a random order, too
    sizes = {group: Counter(labels[i] for i in indices) for group, indices in members.items()}
    left = Counter(labels)
    wanted = {label: number(n) for label, n in left.items()}
    lacking = {label for label, n in wanted.items() if n > 0}
    chosen: list[int] = []

    def take(group: int) -> None:
        chosen.extend(members[group])
        lacking.difference_update(sizes[group])
        for label, n in sizes[group].items():
            wanted[label] -= n
            left[label] -= n

    for group, size in sizes.items():
        if all(n <= wanted[label] and n < left[label] for label, n in size.items()):
            take(group)
    for group, size in sorted(sizes.items(), key=lambda item: item[1].total()):
        if lacking & size.keys() and all(n < left[label] for label, n in size.items()):
            take(group)
    return sorted(chosen)
