from collections import Counter

import pytest

from peft_mudpt.sampling import sample_few_shot


LABELS = [2, 0, 1, 0, 2, 0, 1, 0, 2, 2]


def test_every_class_gives_its_shots():
    drawn = sample_few_shot(LABELS, shots=2, seed=1)
    assert Counter(LABELS[i] for i in drawn) == {0: 2, 1: 2, 2: 2}
    assert len(set(drawn)) == len(drawn)


def test_a_class_with_fewer_gives_all_it_has():
    assert Counter(LABELS[i] for i in sample_few_shot(LABELS, shots=3, seed=1)) == {0: 3, 1: 2, 2: 3}


def test_the_seed_decides_the_draw():
    assert sample_few_shot(LABELS, 2, seed=1) == sample_few_shot(LABELS, 2, seed=1)
    assert any(sample_few_shot(LABELS, 2, seed=1) != sample_few_shot(LABELS, 2, seed=seed) for seed in range(2, 9))


def test_no_shots_are_refused():
    with pytest.raises(ValueError, match="shots=0"):
        sample_few_shot(LABELS, shots=0, seed=1)
