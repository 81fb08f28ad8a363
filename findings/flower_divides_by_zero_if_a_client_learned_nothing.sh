#!/usr/bin/env bash
# Seen with flwr 1.42.0 and numpy 2.4.6 (Python 3.11):
# one client that sends back exactly the arrays that it got ends a federation with differential privacy. A client does so if its
# learning rate is 0, as in the first step of a warm-up, or if its loss is 0. Flower divides the clipping norm by the norm of the
# update, which is 0. The strategies that clip on the server raise ZeroDivisionError out of `start`, whatever the other clients
# learned; the mods that clip in the client raise it there, and the server then gets an error instead of a reply.
#
# Output seen:
#     FedAvg, learning rates 0.5 and 0.0: 2 rounds
#     server-side fixed clipping, learning rates 0.5 and 0.5: 2 rounds
#     server-side fixed clipping, learning rates 0.5 and 0.0: ZeroDivisionError
#     server-side adaptive clipping, learning rates 0.5 and 0.5: 2 rounds
#     server-side adaptive clipping, learning rates 0.5 and 0.0: ZeroDivisionError
#     LocalDpMod, learning rate 0.5: a reply
#     LocalDpMod, learning rate 0.0: ZeroDivisionError
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
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
)
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.CRITICAL)
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # Flower sets them where it runs a ServerApp
INITIAL = ArrayRecord({"weight": Array(np.ones(3, dtype=np.float32))})


def train(message, context):
    weight = message.content["arrays"]["weight"].numpy()
    gradient = np.ones_like(weight)
    arrays = ArrayRecord({"weight": Array(weight - np.float32(context.node_config["learning-rate"]) * gradient)})
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 10})}), reply_to=message)


def client(mods=()):
    app = ClientApp(mods=list(mods))
    app.train()(train)
    return app


def context(node, rate):
    return Context(run_id=1, node_id=node, node_config={"learning-rate": rate}, state=RecordDict(), run_config={})


class Clients(Grid):
    """Clients in this process, one per learning rate."""

    run = None

    def __init__(self, rates):
        self.contexts = {node: context(node, rate) for node, rate in enumerate(rates, start=11)}

    def get_node_ids(self):
        return list(self.contexts)

    def send_and_receive(self, messages, *, timeout=None):
        return [client()(message, self.contexts[message.metadata.dst_node_id]) for message in messages]

    set_run = create_message = push_messages = pull_messages = None


def fed_avg():
    return FedAvg(fraction_evaluate=0.0)


def outcome(function):
    try:
        return function()
    except ZeroDivisionError as error:
        return type(error).__name__


def federation(strategy, rates):
    def run():
        result = strategy.start(Clients(rates), INITIAL, num_rounds=2)
        return f"{len(result.train_metrics_clientapp)} rounds"

    return outcome(run)


def reply(rate):
    mod = LocalDpMod(clipping_norm=1.0, sensitivity=1.0, epsilon=10.0, delta=1e-5)
    message = Message(RecordDict({"arrays": INITIAL}), 11, "train")
    return outcome(lambda: "a reply" if client([mod])(message, context(11, rate)).has_content() else "an error")


STRATEGIES = {
    "server-side fixed clipping": lambda: DifferentialPrivacyServerSideFixedClipping(fed_avg(), 1.0, 1.0, 2),
    "server-side adaptive clipping": lambda: DifferentialPrivacyServerSideAdaptiveClipping(
        fed_avg(), 1.0, 2, clipped_count_stddev=1.0
    ),
}
lines = [f"FedAvg, learning rates 0.5 and 0.0: {federation(fed_avg(), [0.5, 0.0])}"]
for name, strategy in STRATEGIES.items():
    for other in (0.5, 0.0):
        lines.append(f"{name}, learning rates 0.5 and {other}: {federation(strategy(), [0.5, other])}")
for rate in (0.5, 0.0):
    lines.append(f"LocalDpMod, learning rate {rate}: {reply(rate)}")
print("\n".join(lines))
seen = [line.rpartition(": ")[2] for line in lines]
assert seen == ["2 rounds", *["2 rounds", "ZeroDivisionError"] * 2, "a reply", "ZeroDivisionError"]
PYTHON
