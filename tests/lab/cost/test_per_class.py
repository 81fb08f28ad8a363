"""What a class costs: the fitted line, and its table."""

import pytest

from peft_mudpt.lab.cost.cases import OURS, PLAIN, TRAINING
from peft_mudpt.lab.cost.per_class import YARDSTICK, fitted, per_class_parts


def row(classes, **measured):
    return {"model": "tiny", "task": TRAINING, "batch_size": 32, "classes": classes, "adapter": "coop", **measured}


def test_a_line_through_exact_values_is_found_again():
    assert fitted({10: 270, 30: 310, 100: 450}) == pytest.approx((250, 2, 0), abs=1e-9)
    assert fitted({10: 270}) is None


def test_the_residual_is_the_largest_distance_from_the_line():
    assert fitted({0: 0, 1: 3, 2: 0}) == pytest.approx((1, 0, 2))


def test_time_and_memory_of_a_way_share_a_row_beside_the_published_numbers():
    times = [row(n, seconds={OURS: [0.1 + 0.002 * n] * 2, PLAIN: [0.5]}) for n in (10, 20, 40)]
    memory = [row(n, bytes={OURS: 2**20 * (400 + 3 * n)}) for n in (50, 60)]
    title, words, table = per_class_parts(times, memory)
    assert title == "### Cost per class" and "2503.08497" in words
    assert "| tiny, coop | training | 32 | ours | 100 | 2 | 0 | 400 | 3 | 0 |" in table
    assert "| tiny, coop | training | 32 | plain | 500 | 0 | 0 | – | – | – |" in table
    assert table.endswith(YARDSTICK) and {line.count("|") for line in table.splitlines()} == {11}


def test_one_number_of_classes_gives_no_table():
    assert per_class_parts([row(10, seconds={OURS: [1.0]})], []) == []
