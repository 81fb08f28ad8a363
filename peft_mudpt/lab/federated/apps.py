"""The two Flower apps of examples/federated.py, for `flwr run`: in Flower's simulation, or over a network."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import cache

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from ...federated.client import client_app
from ..data.folders import load_folders
from ..flags import parse_flags
from .client import FewShotClient
from .options import FederatedArguments
from .partition import part_of
from .running import run
from .settings import bench_of, client_of


FLAGS = "flags"  # of the run config: the flags of examples/federated.py
SIMULATED = "num-partitions"  # of the node config: the node only plays a client, with pictures that the flags name
NUMBER, TRAIN_DIR, TEST_DIR, DOMAIN = "partition-id", "train-dir", "test-dir", "domain"  # of the node config


def arguments_of(context: Context) -> FederatedArguments:
    """
    Parse the flags of a run, from its run config.

    Args:
        context: what Flower passes to an app.

    Returns:
        The flags.

    Raises:
        ValueError: if there is no such flag, or a value is out of range.
    """
    try:
        return parse_flags(FederatedArguments, shlex.split(str(context.run_config.get(FLAGS, ""))))
    except SystemExit as end:  # argparse would end Flower's process, and the server would learn no reason
        raise ValueError(
            f"The run config has {FLAGS}={context.run_config.get(FLAGS)!r}, which are no flags of "
            "examples/federated.py (--help lists them)."
        ) from end


def find_client(context: Context) -> FewShotClient:
    """
    Find the client of a node. Its node config holds `partition-id`, its number. With `train-dir`, the pictures of the
    client are those of this folder (with `test-dir`, it is tested on those), and the client belongs to domain
    `domain`, or to the one of its own number. With `num-partitions`, which Flower's simulation sets, they are those
    that examples/federated.py gives it.

    Args:
        context: what Flower passes to the app of the client.

    Returns:
        The client.

    Raises:
        ValueError: if the node config or its folders cannot be used.
    """
    node, arguments = context.node_config, arguments_of(context)
    if NUMBER not in node:
        raise ValueError(f"The node config has no {NUMBER}. Start the SuperNode with --node-config '{NUMBER}=0 ...'.")
    number = int(node[NUMBER])
    if TRAIN_DIR not in node:
        if SIMULATED not in node:  # else a server could choose the folders of this machine
            raise ValueError(
                f"The node config has no {TRAIN_DIR}. Start the SuperNode with --node-config '{NUMBER}={number} "
                f'{TRAIN_DIR}="..."\', a folder with one folder of pictures per class.'
            )
        return client_of(arguments, number)
    test_dir = node.get(TEST_DIR)
    return _client_of_folder(
        arguments,
        number,
        int(node.get(DOMAIN, number)),
        str(node[TRAIN_DIR]),
        None if test_dir is None else str(test_dir),
    )


@cache
def _client_of_folder(
    arguments: FederatedArguments, number: int, domain: int, train_dir: str, test_dir: str | None
) -> FewShotClient:
    data = load_folders(train_dir, test_dir)
    # all pictures of the folder are this client's
    own = part_of(data, replace(arguments, clients_per_domain=1), number, domain, position=0)
    return FewShotClient(bench_of(arguments, tuple(data.class_names)), own)


client = client_app(find_client)
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """
    Run the federation on the server.

    Args:
        grid: Flower's connection to the clients.
        context: what Flower passes to the app.
    """
    run(arguments_of(context), grid)
