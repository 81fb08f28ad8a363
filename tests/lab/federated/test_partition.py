"""Pictures divided over clients."""

from collections import Counter

import numpy as np
import pytest

from peft_mudpt.lab.data.draws import draw
from peft_mudpt.lab.federated.options import ClientOptions
from peft_mudpt.lab.federated.partition import client_data, divide, load_domain, pooled
from tests.lab.federated.conftest import CLASSES, STYLES


LABELS = [label for label in range(4) for _ in range(100)]


def options(folder, **fields):
    return ClientOptions(**{"domains": ",".join(STYLES), "domains_dir": str(folder), "shots": 2, **fields})


def owners(partition, alpha=0.5, n=5, seed=0):
    return divide(LABELS, n, partition, alpha, np.random.default_rng(seed))


def counts(partition, **fields):
    """Pictures by client and label."""
    table = Counter(zip(owners(partition, **fields), LABELS))
    return np.array([[table[client, label] for label in range(4)] for client in range(fields.get("n", 5))])


def test_the_same_share_of_each_class_goes_to_each_client():
    assert (counts("same") == 20).all()


@pytest.mark.parametrize("partition", ["same", "labels", "quantity"])
@pytest.mark.parametrize("n", [1, 3, 7])
def test_each_picture_has_one_owner(partition, n):
    found = counts(partition, n=n)
    assert found.sum() == len(LABELS) and (found.sum(axis=0) == 100).all()


def test_classes_are_unequal_and_more_so_with_a_smaller_alpha():
    def inequality(alpha):
        shares = np.concatenate([counts("labels", alpha=alpha, seed=seed) for seed in range(20)]) / 100
        return shares.std()

    assert inequality(0.1) > inequality(1.0) > inequality(100.0) > 0


def test_quantities_are_unequal_and_classes_are_not():
    found = counts("quantity", alpha=0.3)
    assert np.ptp(found.sum(axis=1)) > 40
    assert (np.ptp(found, axis=1) <= 1).all()


@pytest.mark.parametrize("n", [4, 25, 100])
def test_equal_shares_differ_by_one_picture_at_most_however_small_they_are(n):
    labels = [label for label in range(96) for _ in range(3)]
    sizes = Counter(divide(labels, n, "same", 0.5, np.random.default_rng(0)))
    assert max(sizes.values()) - min(sizes[client] for client in range(n)) <= 1


def test_few_shots_stay_as_unequal_as_the_partition_makes_them(domains_dir):
    given = dict(clients_per_domain=3, shots=2, alpha=0.1)
    sizes = {
        partition: [len(client_data(options(domains_dir, partition=partition, **given), i).train) for i in range(3)]
        for partition in ("same", "quantity")
    }
    assert sizes["same"] == [6, 6, 6] and sum(sizes["quantity"]) == 18 and np.ptp(sizes["quantity"]) > 4


def test_the_seed_decides():
    assert owners("labels") == owners("labels") != owners("labels", seed=1)


def test_a_client_per_domain_has_the_few_shot_draw_of_its_domain(domains_dir):
    given = options(domains_dir)
    for number, style in enumerate(STYLES):
        client = client_data(given, number)
        drawn = draw(load_domain(style, str(domains_dir), None), given.shots, given.seed)
        assert (client.domain, client.domain_name) == (number, style)
        assert client.train["item"][:] == drawn.train["item"][:]
        assert client.test["item"][:] == drawn.test["item"][:]
        assert Counter(client.train["label"][:]) == dict.fromkeys(range(len(CLASSES)), 2)


@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
def test_clients_of_a_domain_share_no_picture_and_test_all(domains_dir, evaluate_on):
    given = options(domains_dir, clients_per_domain=3, shots=10, evaluate_on=evaluate_on)
    clients = [client_data(given, number) for number in range(9)]
    assert [client.domain for client in clients] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    trained = [item for client in clients[:3] for item in client.train["item"][:]]
    tested = [item for client in clients[:3] for item in client.test["item"][:]]
    assert len(trained) == len(set(trained)) and not set(trained) & set(tested)
    whole = draw(load_domain(STYLES[0], str(domains_dir), None), 10, 1, evaluate_on)
    assert set(tested) == set((whole.test if evaluate_on == "test" else whole.validation)["item"][:])
    assert not set(trained) & set(whole.test["item"][:])


def test_pooled_clients_have_all_pictures(domains_dir):
    clients = [client_data(options(domains_dir), number) for number in range(3)]
    together = pooled(clients)
    assert len(together.train) == sum(len(client.train) for client in clients)
    assert len(together.test) == sum(len(client.test) for client in clients)


@pytest.mark.parametrize(
    ("fields", "number", "message"),
    [
        ({}, 3, "There is no client 3: 3 domains with 1 clients each have the numbers 0 to 2"),
        ({"domains": "faded,night"}, 1, "has no folder night; its folders are faded, plain, sunset"),
        ({"domains_dir": "nowhere"}, 0, "has no folder faded; its folders are none"),
        ({"domains_dir": None, "domains": "faded,photos"}, 1, "'photos' is not a style of the embedded world"),
    ],
)
def test_domains_that_are_not_there_are_named(domains_dir, fields, number, message):
    with pytest.raises(ValueError, match=message):
        client_data(options(domains_dir, **fields), number)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"domains": " , "}, "names no domain"),
        ({"domains": "faded,faded"}, "or one twice"),
        ({"domains_dir": "a", "coop_root": "b"}, "two sources of pictures"),
        ({"alpha": 0}, "--alpha=0"),
        ({"partition": "labels"}, "--clients_per_domain is 1"),
        ({"partition": "odd"}, "--partition='odd'"),
    ],
)
def test_options_that_mean_nothing_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ClientOptions(**fields)
