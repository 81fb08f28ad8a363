#!/usr/bin/env bash
# Seen with flwr 1.42.0 and numpy 2.4.6 (Python 3.11):
# `FedTrimmedAvg` averages what is left after the share `beta` of the clients is cut off at either end. The number that it cuts
# off is int(beta * clients). With the default of 0.2 that is none with fewer than five clients: the result is the plain mean,
# which one wrong client can move without limit, and nothing warns of it. And a `beta` that is meant to cut off f of n clients
# can cut off one fewer, because the product is rounded below f: 0.29 * 100 is 28.999999999999996, and 1/49 * 49 is
# 0.9999999999999999.
#
# Output seen:
#     5 clients, 1 of them sends 9.0 instead of 1.0, beta=0.2: mean 1.0
#     4 clients, 1 of them sends 9.0 instead of 1.0, beta=0.2: mean 3.0
#     49 clients, 1 of them sends 50.0 instead of 1.0, beta=1/49: mean 2.0
#     100 clients, 29 of them send 45.0 instead of 1.0, beta=0.29: mean 2.0
#     100 clients, 29 of them send 45.0 instead of 1.0, beta=0.291: mean 1.0
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q flwr==1.42.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import logging
from fractions import Fraction

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedTrimmedAvg
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.CRITICAL)
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # Flower sets them where it runs a ServerApp


def reply(node, value):
    arrays = ArrayRecord({"weight": Array(np.array([value], dtype=np.float32))})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 10})})
    return Message(content, reply_to=Message(RecordDict(), node, "train"))


def mean(clients, wrong, value, strategy):
    replies = [reply(node, value if node < wrong else 1.0) for node in range(clients)]
    arrays, _ = strategy.aggregate_train(1, replies)
    return arrays["weight"].numpy().item()


CASES = [
    (5, 1, 9.0, None),
    (4, 1, 9.0, None),
    (49, 1, 50.0, "1/49"),
    (100, 29, 45.0, "0.29"),
    (100, 29, 45.0, "0.291"),
]
means = []
for clients, wrong, value, beta in CASES:
    strategy = FedTrimmedAvg() if beta is None else FedTrimmedAvg(beta=float(Fraction(beta)))
    means.append(mean(clients, wrong, value, strategy))
    verb = "sends" if wrong == 1 else "send"
    beta = beta or strategy.beta
    print(f"{clients} clients, {wrong} of them {verb} {value} instead of 1.0, beta={beta}: mean {means[-1]}")
assert means == [1.0, 3.0, 2.0, 2.0, 1.0]
PYTHON
