"""The rounds of a federation: who takes part, and going on after a restart."""

import pytest
import torch

from peft_mudpt.federated.members import find_members
from peft_mudpt.federated.rounds import Rounds
from peft_mudpt.federated.server import CHECKPOINT
from tests.federated.clients import Adder, domain_arrays, shared_arrays


class Stopped(Exception):
    pass


def clients():
    return [Adder(0, 0.1), Adder(1, 0.7, num_examples=30), Adder(2, -0.3)]


@pytest.mark.parametrize("fields", [{}, {"fraction_train": 0.67}, {"clip_norm": 0.4}], ids=str)
def test_a_restarted_federation_ends_where_an_uninterrupted_one_does(federation, tmp_path, fields):
    options = {"num_rounds": 5, "evaluate_every": 2, **fields}
    whole, history = federation(*clients()).run(domain_arrays(), **options)
    broken = federation(*clients())
    broken.grid.push_messages = interrupted(broken.grid, after=9)
    with pytest.raises(Stopped):
        broken.run(domain_arrays(), tmp_path, **options)
    assert (tmp_path / CHECKPOINT).exists()
    resumed, again = federation(*clients()).run(domain_arrays(), tmp_path, **options)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())
    assert again == history


def interrupted(grid, after):
    push, calls = grid.push_messages, []

    def stop(messages):
        calls.append(None)
        if len(calls) > after:
            raise Stopped
        return push(messages)

    return stop


def test_a_finished_federation_is_not_run_again(federation, tmp_path):
    first, history = federation(*clients()).run(shared_arrays(), tmp_path, num_rounds=2)
    idle = clients()
    again, same = federation(*idle).run(shared_arrays(), tmp_path, num_rounds=2)
    assert all(torch.equal(tensor, first[name]) for name, tensor in again.items())
    assert same == history and not any(client.got for client in idle)


@pytest.mark.parametrize(
    ("arrays", "fields", "message"),
    [
        (domain_arrays, {}, "belongs to another federation: .* missing"),
        (shared_arrays, {"seed": 2}, "seed was 1"),
        (shared_arrays, {"aggregation": "median"}, "aggregation was 'mean'"),
        (shared_arrays, {"num_rounds": 3}, "num_rounds was 2"),
        (shared_arrays, {"identity": {"learning_rate": 0.2}}, "learning_rate was None"),
    ],
)
def test_the_state_of_another_federation_is_refused(federation, tmp_path, arrays, fields, message):
    federation(*clients()).run(shared_arrays(), tmp_path, num_rounds=2)
    with pytest.raises(ValueError, match=message):
        federation(*clients()).run(arrays(), tmp_path, **{"num_rounds": 2, **fields})


def test_the_state_of_other_clients_is_refused(federation, tmp_path):
    federation(*clients()).run(shared_arrays(), tmp_path)
    others = [Adder(0, name="other"), *clients()[1:]]
    with pytest.raises(ValueError, match="clients was"):
        federation(*others).run(shared_arrays(), tmp_path)


def test_a_damaged_state_is_refused(federation, tmp_path):
    federation(*clients()).run(shared_arrays(), tmp_path, num_rounds=2)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        federation(*clients()).run(shared_arrays(), tmp_path, num_rounds=2)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([Adder(0), Adder(0)], "Several clients have the number 0"),
        ([Adder(0), Adder(1, class_names=["cat", "cow"])], "only 1 has .'cow'., only 0 has .'dog'."),
        ([Adder(0), Adder(1, class_names=["dog", "cat"])], "their order differs"),
        ([Adder(0, domain=0), Adder(1, domain=0, name="other")], "Domain 0 is called 'domain 0' and, by client 1"),
        ([Adder(0, name="a"), Adder(1, name="a")], "Several domains are called 'a'"),
        ([Adder(0, num_examples=0), Adder(1, num_examples=0)], "No client has training pictures"),
    ],
)
def test_clients_that_contradict_each_other_are_refused(federation, members, message):
    with pytest.raises(ValueError, match=message):
        federation(*members).run(shared_arrays())


def test_domains_without_a_client_are_refused(federation):
    with pytest.raises(ValueError, match=r"The adapter has 3 domains, but the clients belong to \[0, 1\]"):
        federation(Adder(0), Adder(1)).run(domain_arrays())


def test_more_nodes_than_clients_are_refused(federation):
    made = federation(Adder(0), Adder(1), Adder(2))
    with pytest.raises(ValueError, match="3 nodes are connected, but the federation has 2 clients"):
        find_members(made.grid, 2, timeout=1)


def test_missing_clients_are_waited_for_and_then_named(federation):
    made = federation(Adder(0))
    with pytest.raises(TimeoutError, match="Only 1 of 2 nodes are connected"):
        find_members(made.grid, 2, timeout=0.3)


def test_a_client_that_cannot_tell_about_itself_is_named(federation):
    class Broken(Adder):
        @property
        def num_examples(self):
            raise FileNotFoundError("no folder /data")

        @num_examples.setter
        def num_examples(self, _):
            pass

    with pytest.raises(ValueError, match="1 of 2 clients cannot take part. .*FileNotFoundError: no folder /data"):
        federation(Adder(0), Broken(1)).run(shared_arrays())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"aggregation": "magic"}, "it is one of mean, median"),
        ({"noise_multiplier": 1.0}, "Give clip_norm"),
        ({"noise_multiplier": 1.0, "clip_norm": 1.0, "aggregation": "median"}, "scaled for the mean"),
        ({"aggregation": "trimmed_mean"}, "needs num_malicious"),
        ({"num_rounds": 0}, "num_rounds=0 is not at least 1"),
        ({"clip_norm": -1.0}, "clip_norm=-1.0 is not more than 0"),
        ({"fraction_train": float("nan")}, "fraction_train=nan"),
        ({"context_momentum": 2.0}, "from 0 to 1"),
        ({"evaluate_every": 0}, "evaluate_every=0"),
        ({"num_malicious": 1}, "has no effect with aggregation='mean'"),
    ],
)
def test_rounds_that_contradict_themselves_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Rounds(**fields)


@pytest.mark.parametrize(("aggregation", "least"), [("trimmed_mean", 3), ("krum", 5)])
def test_an_aggregation_that_needs_more_clients_is_refused(aggregation, least):
    rounds = Rounds(aggregation=aggregation, num_malicious=1)
    assert rounds.clients_per_round(least) == least
    with pytest.raises(ValueError, match=f"needs at least {least} clients"):
        rounds.clients_per_round(least - 1)
