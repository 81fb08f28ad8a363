"""The settings of a comparison: clients with a server, clients alone, and one that has all pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple, Optional

from flwr.app import Context
from flwr.serverapp import Grid

from ...federated.arrays import Arrays
from ...federated.members import Member, find_members
from ...federated.rounds import Round, accuracy_by_domain
from ...federated.server import run_rounds
from .client import FewShotClient, Workbench
from .options import FederatedArguments
from .partition import client_data, pooled


class Trained(NamedTuple):
    """
    What comes of a setting.

    Args:
        bench: the adapted CLIP.
        arrays: the adapter that was learned; None if each client has learned one of its own.
        history: what happened in each round; round 0 has the accuracy without an adapter.
        clients: number, domain and number of pictures of each client.
    """

    bench: Workbench
    arrays: Optional[Arrays]
    history: list[Round]
    clients: list[dict[str, Any]]


def train_with_server(
    arguments: FederatedArguments, grid: Grid, folder: Path, on_round: Callable[[Round], None]
) -> Trained:
    """
    Let the clients of a grid learn together.

    Args:
        arguments: the flags.
        grid: Flower's connection to the clients.
        folder: where the state of the federation is saved (see `federated.server.run_rounds`).
        on_round: called after each round.

    Returns:
        What was learned.

    Raises:
        ValueError: if clients cannot learn together.
        TimeoutError: if clients are missing.
    """
    members = find_members(grid, arguments.num_clients, arguments.timeout)
    bench = bench_of(arguments, members[0].class_names)
    rounds = arguments.rounds(arguments.seed)
    arrays, history = run_rounds(grid, members, bench.initial, rounds, folder, on_round, arguments.identity())
    return Trained(bench, arrays, history, [_described(member) for member in members])


def train_without_server(arguments: FederatedArguments, together: bool, on_round: Callable[[Round], None]) -> Trained:
    """
    Train each client alone, or one client on the pictures of all, for as many steps as in a federation.

    Args:
        arguments: the flags.
        together: True: one client has the pictures of all, and as many of them in each step.
        on_round: called after each round.

    Returns:
        What was learned.

    Raises:
        ValueError: if domains have other classes.
    """
    data = [client_data(arguments, number) for number in range(arguments.num_clients)]
    bench = bench_of(arguments, tuple(data[0].class_names))
    clients = [FewShotClient(bench, each) for each in data]
    learners = clients
    if together:
        learners = [FewShotClient(bench, pooled(data), len(clients))]
    arrays, rounds = [bench.initial for _ in learners], arguments.rounds(arguments.seed)
    history = [Round(0, accuracy=_tested(clients, [None] * len(clients)))]
    on_round(history[0])
    for number in range(1, arguments.num_rounds + 1):
        losses = {}
        for i, client in enumerate(learners):
            if client.num_examples:
                arrays[i], metrics = client.train(arrays[i], number)
                losses[client.number] = metrics["loss"]
        done = Round(number, list(losses), loss=mean(losses.values()))
        if rounds.is_tested(number):
            done.accuracy = _tested(clients, arrays * len(clients) if together else arrays)
        history.append(done)
        on_round(done)
    return Trained(bench, arrays[0] if together else None, history, [_described(client) for client in clients])


def _tested(clients: list[FewShotClient], arrays: Iterable[Optional[Arrays]]) -> dict[str, float]:
    """The accuracy in percent by domain, each client with its own adapter; None: without one."""
    tests = ((client.domain_name, *client.evaluate(own)) for client, own in zip(clients, arrays))
    return accuracy_by_domain((name, number, metrics["accuracy"]) for name, number, metrics in tests)


def _described(client: Member | FewShotClient) -> dict[str, Any]:
    return {"number": client.number, "domain": client.domain_name, "pictures": client.num_examples}


@lru_cache(maxsize=4)
def bench_of(arguments: FederatedArguments, class_names: tuple[str, ...]) -> Workbench:
    """The adapted CLIP of this process."""
    return Workbench.build(arguments, list(class_names))


@cache
def client_of(arguments: FederatedArguments, number: int) -> FewShotClient:
    """A client of this process, with its pictures."""
    data = client_data(arguments, number)
    return FewShotClient(bench_of(arguments, tuple(data.class_names)), data)


class Clients:
    """Finds the client of a node by its `partition-id`."""

    def __init__(self, arguments: FederatedArguments):
        self.arguments = arguments

    def __call__(self, context: Context) -> FewShotClient:
        return client_of(self.arguments, int(context.node_config["partition-id"]))
