#!/usr/bin/env bash
# Seen with flwr 1.42.0 and numpy 2.4.6 (Python 3.11):
# a client may send its arrays in another order of names than the server did, for instance sorted, as it read them from a file.
# Flower compares the names of the replies as sets, so that it takes such a reply, and `FedAvg` aggregates it by name. But the
# strategies that clip on the server subtract the arrays of the server by position, and `Krum`, `MultiKrum` and `Bulyan` measure
# the distance of clients by position. With arrays of equal shapes nothing is raised: the clipped update is that of other arrays,
# and Krum takes two clients with one and the same model for far apart. (The mods in the client compare names in their order.)
#
# Output seen:
#     FedAvg, both clients in the server's order: a=0.1, b=9.1
#     FedAvg, one client sorts the names: a=0.1, b=9.1
#     clipping to 1.0 without noise, both clients in the server's order: a=0.1, b=9.1
#     clipping to 1.0 without noise, one client sorts the names: a=4.2, b=4.907
#     Krum, all clients in the server's order: b=9.0, as three of five clients sent
#     Krum, two clients sort the names: b=10.0, as one of five clients sent
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q flwr==1.42.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import logging

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, Krum
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.CRITICAL)
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # Flower sets them where it runs a ServerApp
SERVER, SORTED = "ba", "ab"


def record(order, **values):
    return ArrayRecord({name: Array(np.array([values[name]], dtype=np.float32)) for name in order})


def reply(order, **values):
    content = RecordDict({"arrays": record(order, **values), "metrics": MetricRecord({"num-examples": 10})})
    return Message(content, reply_to=Message(RecordDict(), 11, "train"))


def aggregate(strategy, replies):
    arrays, _ = strategy.aggregate_train(1, replies)
    return {name: round(arrays[name].numpy().item(), 3) for name in "ab"}


def clipping():
    strategy = DifferentialPrivacyServerSideFixedClipping(
        FedAvg(), noise_multiplier=0.0, clipping_norm=1.0, num_sampled_clients=2
    )
    strategy.current_arrays = record(SERVER, a=0.0, b=9.0)  # what `configure_train` keeps of the arrays that it sends
    return strategy


same, other = "in the server's order", "the names"
results = []
for name, strategy in (("FedAvg", FedAvg), ("clipping to 1.0 without noise", clipping)):
    for order, words in ((SERVER, f"both clients {same}"), (SORTED, f"one client sorts {other}")):
        learned = dict(a=0.1, b=9.1)  # an update of norm 0.14, which is not clipped
        results.append(aggregate(strategy(), [reply(SERVER, **learned), reply(order, **learned)]))
        print(f"{name}, {words}: a={results[-1]['a']}, b={results[-1]['b']}")
for order, words in ((SERVER, f"all clients {same}"), (SORTED, f"two clients sort {other}")):
    values = [9.0, 9.0, 9.0, 10.0, 11.0]
    orders = [SERVER, order, order, SERVER, SERVER]
    replies = [reply(order, a=0.0, b=value) for order, value in zip(orders, values)]
    chosen = aggregate(Krum(num_malicious_nodes=1), replies)["b"]
    results.append(chosen)
    print(f"Krum, {words}: b={chosen}, as {('one', 'two', 'three')[values.count(chosen) - 1]} of five clients sent")
right, wrong = dict(a=0.1, b=9.1), dict(a=4.2, b=4.907)
assert results == [right, right, right, wrong, 9.0, 10.0]
PYTHON
