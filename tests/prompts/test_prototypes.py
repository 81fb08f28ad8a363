"""Prototypes, which are chosen from a stream of tokens."""

import pytest
import torch

from peft_mudpt.prompts.prototypes import Prototypes, Reservoir, cluster_centers, windows


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(length):
    return torch.arange(length).view(1, length, 1)


def sizes(length, n):
    return [window.shape[1] for window in windows(numbered(length), n)]


@pytest.mark.parametrize(
    ("length", "n", "expected"),
    [
        (16, 4, [5, 5, 5, 1]),
        (16, 6, [3, 3, 3, 3, 3, 1]),
        (36, 8, [5] * 7 + [1]),
        (196, 20, [10] * 19 + [6]),
    ],
)
def test_windows_are_the_published_ones(length, n, expected):
    assert sizes(length, n) == expected


@pytest.mark.parametrize(("length", "n"), [(16, 1), (16, 2), (16, 5), (36, 12), (196, 100), (4, 4), (7, 7)])
def test_windows_are_nearly_equal_where_the_published_last_one_would_be_empty(length, n):
    lengths = sizes(length, n)
    assert len(lengths) == n and sum(lengths) == length and max(lengths) - min(lengths) <= 1
    assert torch.equal(torch.cat(windows(numbered(length), n), dim=1), numbered(length))


def test_a_sample_does_not_depend_on_how_the_rows_were_divided():
    rows = torch.randn(50, 3)
    samples = []
    for size in (50, 7, 1):
        reservoir = Reservoir(6, seeded())
        for part in rows.split(size):
            reservoir.add(part)
        samples.append(reservoir.rows)
    assert torch.equal(samples[0], samples[1]) and torch.equal(samples[0], samples[2])


def test_every_row_is_sampled_equally_often_and_none_twice():
    counts = torch.zeros(20)
    for seed in range(2000):
        reservoir = Reservoir(5, seeded(seed))
        for part in torch.arange(20.0)[:, None].split(6):
            reservoir.add(part)
        chosen = reservoir.rows[:, 0].long()
        assert len(chosen.unique()) == 5
        counts[chosen] += 1
    # 500 expected, standard deviation 19
    assert counts.sub(500).abs().max() < 80


def test_centers_are_the_means_of_their_tokens_and_find_separate_clusters():
    generator = seeded()
    means = 10 * torch.randn(4, 3, generator=generator)
    tokens = (means[:, None] + 0.1 * torch.randn(4, 30, 3, generator=generator)).flatten(0, 1)
    centers = cluster_centers(tokens[torch.randperm(120, generator=generator)], 4, generator)
    expected = tokens.unflatten(0, (4, 30)).mean(dim=1)
    order = torch.cdist(centers, expected).argmin(dim=1)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    torch.testing.assert_close(centers, expected[order], atol=1e-5, rtol=0)


def test_more_centers_than_distinct_tokens_are_tokens():
    tokens = torch.eye(2).repeat(5, 1)
    centers = cluster_centers(tokens, 4, seeded())
    assert {tuple(row) for row in centers.tolist()} == {(1.0, 0.0), (0.0, 1.0)}


def test_too_few_tokens_are_refused_by_number():
    prototypes = Prototypes("random", 5, seeded())
    prototypes.add(torch.randn(1, 4, 3))
    with pytest.raises(ValueError, match="only 4 tokens.*5 vision prompts"):
        prototypes.choose()


def test_more_windows_than_tokens_are_refused():
    with pytest.raises(ValueError, match="'max_pool' cuts the 4 tokens.*5 prompts.*'random'"):
        Prototypes("max_pool", 5, seeded()).add(torch.randn(2, 4, 3))
