#!/usr/bin/env bash
# Seen with flwr 1.42.0 and numpy 2.4.6 (Python 3.11):
# the documentation of `LocalDpMod` and `fixedclipping_mod` says that they operate on messages of type "train", and its examples
# give them to the whole app: `ClientApp(mods=[...])`. But they do not look at the type. Each evaluate message then ends in an
# error, because the reply has no arrays, or because the server sends no clipping norm with it. The error of `LocalDpMod` answers
# the client's own reply instead of the server's message, so that it is addressed to the client. In a simulation, as in a
# deployment, the server got nothing and waited for the whole timeout (an hour by default), and the run completed without any
# metrics of the evaluation. `@app.train(mods=[...])` works.
#
# Output seen:
#     LocalDpMod of the app: train gives a reply to the server, evaluate gives error 6 to the client itself
#     LocalDpMod of train: train gives a reply to the server, evaluate gives a reply to the server
#     fixedclipping_mod of the app: train gives a reply to the server, evaluate gives error 6 to the server
#     fixedclipping_mod of train: train gives a reply to the server, evaluate gives a reply to the server
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
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.CRITICAL)
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # Flower sets them where it runs a ServerApp
SERVER, CLIENT = 1, 11
LOCAL = LocalDpMod(clipping_norm=1.0, sensitivity=1.0, epsilon=10.0, delta=1e-5)


def train(message, context):
    weight = message.content["arrays"]["weight"].numpy()
    arrays = ArrayRecord({"weight": Array(weight + np.float32(0.1))})
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 10})}), reply_to=message)


def evaluate(message, context):
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 10, "loss": 1.0})}), reply_to=message)


class OneClient(Grid):
    run = set_run = create_message = push_messages = pull_messages = send_and_receive = None

    def get_node_ids(self):
        return [CLIENT]


def messages(strategy):
    """The messages of a round, as Flower's strategy makes them."""
    arrays = ArrayRecord({"weight": Array(np.ones(3, dtype=np.float32))})
    for configure in (strategy.configure_train, strategy.configure_evaluate):
        yield from configure(1, arrays, ConfigRecord(), OneClient())


def outcome(app, message):
    reply = app(message, Context(run_id=1, node_id=CLIENT, node_config={}, state=RecordDict(), run_config={}))
    what = f"error {reply.error.code}" if reply.has_error() else "a reply"
    return f"{what} to {({SERVER: 'the server', CLIENT: 'the client itself'})[reply.metadata.dst_node_id]}"


def fed_avg():
    return FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)


def clipping():
    return DifferentialPrivacyClientSideFixedClipping(fed_avg(), 1.0, 1.0, 1)


seen = []
for name, mod, strategy in (("LocalDpMod", LOCAL, fed_avg), ("fixedclipping_mod", fixedclipping_mod, clipping)):
    for place in ("the app", "train"):
        app = ClientApp(mods=[mod] if place == "the app" else [])
        app.train(mods=[mod] if place == "train" else [])(train)
        app.evaluate()(evaluate)
        trained, evaluated = (outcome(app, message) for message in messages(strategy()))
        print(f"{name} of {place}: train gives {trained}, evaluate gives {evaluated}")
        seen += [trained, evaluated]
good = "a reply to the server"
assert seen == [good, "error 6 to the client itself", good, good, good, "error 6 to the server", good, good]
PYTHON
