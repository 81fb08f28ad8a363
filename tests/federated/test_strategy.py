"""What the server does with what the clients send, against sums made here."""

import random

import numpy as np
import pytest
import torch

from peft_mudpt.federated.domains import follow
from tests.federated.clients import CONTEXT, VISION, Adder, domain_arrays, shared_arrays


def equal(arrays, expected, tolerance=0.0):
    assert arrays.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(arrays[name], tensor, atol=tolerance, rtol=0)


def test_shared_arrays_are_the_mean_weighted_by_pictures(federation):
    clients = [Adder(0, 1.0, num_examples=10), Adder(1, 4.0, num_examples=30)]
    arrays, history = federation(*clients).run(shared_arrays())
    equal(arrays, {name: t + (1.0 * 10 + 4.0 * 30) / 40 for name, t in shared_arrays().items()}, 1e-6)
    assert history[1].trained == [0, 1] and history[1].loss == pytest.approx(0.75)


def test_contexts_are_those_of_their_owners_to_the_last_bit(federation):
    clients = [Adder(k, 0.1 * (k + 1), num_examples=10 * (k + 1)) for k in range(3)]
    arrays, _ = federation(*clients).run(domain_arrays())
    for k in range(3):
        assert torch.equal(arrays[CONTEXT.format(k)], torch.full((2, 3), float(k)) + 0.1 * (k + 1))
    mean = (0.1 * 10 + 0.2 * 20 + 0.3 * 30) / 60
    torch.testing.assert_close(arrays[VISION], torch.full((1, 3, 2), mean), atol=1e-7, rtol=0)


def test_clients_of_one_domain_share_its_context_by_their_pictures(federation):
    clients = [Adder(0, 1.0, 0, num_examples=10), Adder(1, 2.0, 0, num_examples=30), Adder(2, 5.0, 1)]
    arrays, _ = federation(*clients).run(domain_arrays(2))
    torch.testing.assert_close(arrays[CONTEXT.format(0)], torch.full((2, 3), 1.75))
    assert torch.equal(arrays[CONTEXT.format(1)], torch.full((2, 3), 6.0))


def test_the_order_of_the_replies_changes_no_bit(federation, monkeypatch):
    torch.manual_seed(0)
    changes = [torch.randn(()).item() for _ in range(5)]
    start = {name: torch.randn_like(tensor) for name, tensor in domain_arrays(5).items()}

    def run(order):
        made = federation(*(Adder(k, changes[k], num_examples=7 * k + 3) for k in range(5)))
        pull = type(made.grid).pull_messages

        def shuffled(ids):
            replies = list(pull(made.grid, ids))
            random.Random(order).shuffle(replies)
            return replies

        monkeypatch.setattr(made.grid, "pull_messages", shuffled)
        return made.run(start, num_rounds=3)[0]

    first = run(0)
    for order in range(1, 4):
        assert all(torch.equal(tensor, first[name]) for name, tensor in run(order).items())


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99, 1.0])
def test_contexts_of_others_follow_by_momentum(federation, momentum):
    clients = [Adder(0, 1.0), Adder(1, 10.0)]
    federation(*clients).run(domain_arrays(2), num_rounds=3, context_momentum=momentum)
    slow = 1.0  # what client 0 is sent as the context of domain 1, which begins at 1
    for number, got in enumerate(clients[0].got):
        torch.testing.assert_close(got[CONTEXT.format(1)], torch.full((2, 3), slow))
        assert torch.equal(got[CONTEXT.format(0)], torch.full((2, 3), float(number)))  # its own: the latest
        slow = momentum * slow + (1 - momentum) * (1.0 + 10.0 * (number + 1))


def test_following_keeps_or_copies_at_its_ends():
    slow, latest = {"a": torch.randn(3)}, {"a": torch.randn(3), "b": torch.randn(1)}
    assert torch.equal(follow(slow, latest, 1.0)["a"], slow["a"])
    assert torch.equal(follow(slow, latest, 0.0)["a"], latest["a"])


class Wrong(Adder):
    """A client that sends what `spoil` makes of its arrays."""

    def __init__(self, number, spoil, **options):
        super().__init__(number, 1.0, **options)
        self.spoil = spoil

    def train(self, arrays, server_round):
        arrays, metrics = super().train(arrays, server_round)
        return self.spoil(arrays), metrics


def failing(arrays):
    raise RuntimeError("out of memory")


SPOILED = {
    "NaN": (lambda a: {**a, "b.weight": a["b.weight"] * float("nan")}, "b.weight holds numbers that are NaN"),
    "a shape that would be broadcast": (lambda a: {**a, "b.weight": a["b.weight"][:1]}, "shape (1,), expected (4,)"),
    "a missing name": (lambda a: {"a.weight": a["a.weight"]}, "b.weight is missing"),
    "another name": (lambda a: {**a, "c": a["b.weight"]}, "returned ['c'], which are not in the adapter"),
    "another type": (lambda a: {**a, "b.weight": a["b.weight"].double()}, "type torch.float64"),
    "whole numbers": (lambda a: {**a, "b.weight": a["b.weight"].long()}, "type torch.int64"),
    "an error": (failing, "RuntimeError: out of memory"),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILED.values(), ids=SPOILED)
def test_a_client_that_sends_something_else_is_left_out_with_a_reason(federation, caplog, spoil, reason):
    clients = [Adder(0, 1.0), Wrong(1, spoil), Adder(2, 3.0)]
    arrays, history = federation(*clients).run(shared_arrays())
    equal(arrays, {name: tensor + 2.0 for name, tensor in shared_arrays().items()}, 1e-6)
    assert history[1].trained == [0, 2] and reason in history[1].left_out["1"]
    assert "client 1 is left out" in caplog.text and reason in caplog.text


def test_a_round_without_usable_replies_changes_nothing(federation, caplog):
    arrays, history = federation(Wrong(0, failing), Wrong(1, failing)).run(shared_arrays(), num_rounds=2)
    equal(arrays, shared_arrays())
    assert [each.trained for each in history] == [[], [], []]
    assert "round 1 changes nothing" in caplog.text


def test_a_client_that_does_not_answer_in_time_is_left_out(federation):
    clients = [Adder(0, 1.0), Adder(1, 9.0), Adder(2, 3.0)]
    made = federation(*clients)
    pull, late = made.grid.pull_messages, list(made.grid.contexts)[1]

    def without_late_ones(ids):
        replies = list(pull(ids))
        training = any(message.content.array_records for message in replies)
        return [each for each in replies if not (training and each.metadata.src_node_id == late)]

    made.grid.pull_messages = without_late_ones
    arrays, history = made.run(shared_arrays(), timeout=7)
    equal(arrays, {name: tensor + 2.0 for name, tensor in shared_arrays().items()}, 1e-6)
    assert history[1].left_out == {"1": "no answer within 7 seconds"}


class Talkative(Adder):
    """A client that measures more than the others."""

    def train(self, arrays, server_round):
        arrays, metrics = super().train(arrays, server_round)
        return arrays, {**metrics, "seconds": 1.5, "losses": [1.0, 2.0]}


def test_clients_may_measure_different_things(federation):
    arrays, history = federation(Adder(0, 1.0), Talkative(1, 3.0)).run(shared_arrays())
    equal(arrays, {name: tensor + 2.0 for name, tensor in shared_arrays().items()}, 1e-6)
    assert history[1].trained == [0, 1] and history[1].loss == pytest.approx(0.5)


@pytest.mark.parametrize("accuracy", [float("nan"), 101.0, -1.0])
def test_an_accuracy_that_cannot_be_is_not_counted(federation, caplog, accuracy):
    wrong = Adder(1, 1.0, domain=0)
    wrong.evaluate = lambda arrays: (5, {"accuracy": accuracy})
    _, history = federation(Adder(0, 1.0), wrong).run(shared_arrays())
    assert history[1].accuracy == {"domain 0": 50.0}
    assert "client 1 sent no accuracy" in caplog.text and history[1].untested == [1]


def test_trimming_counts_the_clients_that_are_left(federation):
    clients = [*(Adder(k, 1.0) for k in range(4)), Adder(4, POISON), *(Wrong(k, failing) for k in range(5, 12))]
    arrays, history = federation(*clients).run(shared_arrays(), aggregation="trimmed_mean", num_malicious=1)
    assert history[1].trained == [0, 1, 2, 3, 4]
    equal(arrays, {name: tensor + 1.0 for name, tensor in shared_arrays().items()}, 1e-6)


def test_noisy_rounds_weigh_clients_equally_and_know_how_many_are_left(federation):
    start = {"a": torch.zeros(200, 200)}
    clients = [Adder(0, 1e-3, num_examples=1), Adder(1, 3e-3, num_examples=99), Wrong(2, failing)]
    np.random.seed(0)
    arrays, _ = federation(*clients).run(start, clip_norm=2.0, noise_multiplier=0.1)
    assert arrays["a"].std().item() == pytest.approx(0.1 * 2.0 / 2, rel=0.02)
    assert arrays["a"].mean().item() == pytest.approx(2e-3, abs=1.5e-3)


def test_a_domain_whose_client_fails_keeps_its_context(federation):
    arrays, _ = federation(Adder(0, 1.0), Wrong(1, failing)).run(domain_arrays(2))
    assert torch.equal(arrays[CONTEXT.format(1)], domain_arrays(2)[CONTEXT.format(1)])
    assert torch.equal(arrays[CONTEXT.format(0)], torch.full((2, 3), 1.0))


def test_a_client_without_pictures_does_not_train(federation, caplog):
    clients = [Adder(0, 1.0), Adder(1, 5.0, num_examples=0)]
    arrays, history = federation(*clients).run(shared_arrays())
    equal(arrays, {name: tensor + 1.0 for name, tensor in shared_arrays().items()})
    assert clients[1].got == [] and "client 1 has no training pictures" in caplog.text
    assert history[1].trained == [0]


def test_a_count_of_pictures_that_grows_is_not_believed(federation):
    greedy = Adder(1, 5.0)
    made = federation(Adder(0, 1.0), greedy)
    train = greedy.train

    def claim_more(*arguments):
        greedy.num_examples = 10**9
        return train(*arguments)

    greedy.train = claim_more
    _, history = made.run(shared_arrays())
    assert "it counts 1000000000 pictures" in history[1].left_out["1"]


POISON = 1e6


@pytest.mark.parametrize(
    "fields",
    [
        {"aggregation": "median"},
        {"aggregation": "trimmed_mean", "num_malicious": 1},
        {"aggregation": "krum", "num_malicious": 1},
        {"clip_norm": 3.2},
    ],
    ids=str,
)
def test_a_poisoned_update_is_withstood(federation, fields):
    clients = [*(Adder(k, 1.0 + 0.01 * k) for k in range(4)), Adder(4, POISON)]
    arrays, _ = federation(*clients).run(shared_arrays(), **fields)
    spoiled, _ = federation(*clients).run(shared_arrays())
    for name, tensor in shared_arrays().items():
        assert (arrays[name] - tensor - 1.0).abs().max() < 0.1
        assert (spoiled[name] - tensor).abs().max() > POISON / 10


def test_clipping_scales_a_change_to_the_norm_that_is_allowed(federation):
    arrays, _ = federation(Adder(0, 7.0)).run(shared_arrays(), clip_norm=0.5)
    change = torch.cat([(arrays[name] - tensor).flatten() for name, tensor in shared_arrays().items()])
    assert change.norm().item() == pytest.approx(0.5, abs=1e-5)
    assert change.std() < 1e-6


def test_clipping_bounds_contexts_too(federation):
    arrays, _ = federation(Adder(0, 7.0), Adder(1, 0.0)).run(domain_arrays(2), clip_norm=0.5)
    assert (arrays[CONTEXT.format(0)] - domain_arrays(2)[CONTEXT.format(0)]).norm() <= 0.5


def test_noise_has_the_standard_deviation_that_was_asked(federation):
    start = {"a": torch.zeros(200, 200)}
    clients = [Adder(k, 1e-6) for k in range(4)]
    np.random.seed(0)
    arrays, _ = federation(*clients).run(start, clip_norm=2.0, noise_multiplier=1.5)
    np.random.seed(0)
    again, _ = federation(*clients).run(start, clip_norm=2.0, noise_multiplier=1.5)
    assert not torch.equal(arrays["a"], again["a"])  # whoever knows a seed could subtract the noise
    assert arrays["a"].std().item() == pytest.approx(1.5 * 2.0 / 4, rel=0.02)


def test_a_client_that_changes_nothing_is_left_out_of_noisy_rounds(federation):
    _, history = federation(Adder(0, 1.0), Adder(1)).run(shared_arrays(), clip_norm=2.0, noise_multiplier=1.0)
    assert "it changed nothing" in history[1].left_out["1"]


def test_noise_is_refused_where_contexts_are_passed_on_as_they_are(federation):
    with pytest.raises(ValueError, match="does not protect the contexts"):
        federation(Adder(0), Adder(1)).run(domain_arrays(2), clip_norm=1.0, noise_multiplier=1.0)


def test_robust_aggregation_of_contexts_that_clients_share_is_refused(federation):
    with pytest.raises(ValueError, match="the context of a domain with several clients is their mean"):
        federation(Adder(0, domain=0), Adder(1, domain=0), Adder(2, domain=1)).run(
            domain_arrays(2), aggregation="median"
        )


def test_what_clients_say_cannot_control_a_terminal(federation, caplog):
    def fail(arrays):
        raise RuntimeError("\x1b[2J\nround 1: client 0 is left out: forged")

    _, history = federation(Adder(0, 1.0), Wrong(1, fail)).run(shared_arrays())
    assert "\x1b" not in history[1].left_out["1"] and "\n" not in history[1].left_out["1"]
    assert "\x1b" not in caplog.text


def test_a_share_of_the_clients_is_drawn_by_the_seed(federation):
    def trained(seed):
        clients = [Adder(k, 1.0) for k in range(6)]
        _, history = federation(*clients).run(shared_arrays(), num_rounds=8, fraction_train=0.5, seed=seed)
        return [each.trained for each in history[1:]]

    first = trained(1)
    assert first == trained(1) != trained(2)
    assert {len(each) for each in first} == {3} and len(set(map(tuple, first))) > 1
    assert set().union(*first) == set(range(6))


def test_accuracies_are_those_of_the_domains(federation):
    clients = [Adder(0, domain=0), Adder(1, domain=1), Adder(2, domain=1)]
    _, history = federation(*clients).run(shared_arrays(), num_rounds=3, evaluate_every=2)
    expected = {"domain 0": 50.0, "domain 1": 51.5}
    assert [each.accuracy for each in history] == [expected, {}, expected, expected]


def test_bytes_are_those_of_numbers_and_names(federation):
    arrays = domain_arrays(2)
    _, history = federation(Adder(0), Adder(1)).run(arrays)
    names = {name: len(name) for name in arrays}
    down = sum(4 * t.numel() + names[name] for name, t in arrays.items())
    up = sum(4 * arrays[name].numel() + names[name] for name in (VISION, CONTEXT.format(0)))
    assert history[1].bytes_down == 2 * down
    assert history[1].bytes_up == 2 * up
