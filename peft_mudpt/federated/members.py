"""Who takes part in a federation: the server asks each client about itself before the first round."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from reprlib import repr as short_repr
from typing import cast

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from .client import CLIENT, DESCRIBE, NUM_EXAMPLES, NUMBER


log = logging.getLogger("flwr")


@dataclass(frozen=True)
class Member:
    """
    A client, as the server knows it.

    Args:
        node_id: the node on which it runs. It differs from run to run, unlike the number.
        number: its number, counted from 0.
        domain: the number of its domain, counted from 0.
        domain_name: the name of its domain.
        num_examples: number of its training pictures.
        class_names: its classes, in the order of the labels.
    """

    node_id: int
    number: int
    domain: int
    domain_name: str
    num_examples: int
    class_names: tuple[str, ...]


def find_members(grid: Grid, num_clients: int, timeout: float) -> list[Member]:
    """
    Wait until enough nodes are connected, and ask each client about itself.

    Args:
        grid: Flower's connection to the nodes.
        num_clients: how many clients the federation has.
        timeout: seconds to wait, for the nodes and then for their answers.

    Returns:
        The clients, by their number.

    Raises:
        TimeoutError: if not enough nodes are connected, or answer, in time.
        ValueError: if more nodes are connected, if a client reports an error, if clients contradict each other (see
            `check_members`), or if an answer cannot be read.
    """
    if num_clients < 1:
        raise ValueError(f"num_clients={num_clients} must be at least 1.")
    nodes = _wait_for(grid, num_clients, timeout)
    if len(nodes) > num_clients:
        raise ValueError(
            f"{len(nodes)} nodes are connected, but the federation has {num_clients} clients. End the others, or set "
            "the number of clients to that of the nodes."
        )
    queries = [
        Message(RecordDict({}), dst_node_id=node, message_type=f"{MessageType.QUERY}.{DESCRIBE}") for node in nodes
    ]
    members, errors = [], []
    for reply in grid.send_and_receive(queries, timeout=timeout):
        if reply.has_error():
            errors.append(f"node {reply.metadata.src_node_id}: {visible(reply.error.reason)}")
        else:
            members.append(_read(reply.metadata.src_node_id, reply.content.config_records.get(CLIENT)))
    if errors:
        raise ValueError(f"{len(errors)} of {num_clients} clients cannot take part. " + "; ".join(errors))
    if len(members) < num_clients:
        raise TimeoutError(
            f"Only {len(members)} of {num_clients} clients have described themselves within {timeout:g} seconds. See "
            "the logs of the others."
        )
    check_members(members)
    return sorted(members, key=lambda member: member.number)


def check_members(members: Iterable[Member]) -> None:
    """
    Refuse clients that cannot learn together.

    Raises:
        ValueError: if two clients have the same number, if clients have other classes, if a domain has two names or
            two domains have one, or if no client has pictures. The message names the clients.
    """
    first, *others = members = sorted(members, key=lambda member: member.number)
    numbers = Counter(member.number for member in members)
    twice = [number for number, times in numbers.items() if times > 1]
    if twice:
        raise ValueError(f"Several clients have the number {twice[0]}. Give each SuperNode a partition-id of its own.")
    for member in others:
        if member.class_names != first.class_names:
            more = sorted(set(member.class_names) - set(first.class_names))
            fewer = sorted(set(first.class_names) - set(member.class_names))
            raise ValueError(
                f"Clients {first.number} and {member.number} have other classes: only {member.number} has "
                f"{short_repr(more)}, only {first.number} has {short_repr(fewer)} (or their order differs). All "
                "clients must have the same classes in the same order."
            )
    names: dict[int, str] = {}
    for member in members:
        if names.setdefault(member.domain, member.domain_name) != member.domain_name:
            raise ValueError(
                f"Domain {member.domain} is called {names[member.domain]!r} and, by client {member.number}, "
                f"{member.domain_name!r}. Give the domains in the same order to all clients."
            )
    shared = [name for name, times in Counter(names.values()).items() if times > 1]
    if shared:
        raise ValueError(f"Several domains are called {shared[0]!r}. Give each domain a name of its own.")
    if not any(member.num_examples for member in members):
        raise ValueError("No client has training pictures. Check the folders of the clients.")


def visible(text: object) -> str:
    """A text that came from a client, shortened, with escapes for characters that would control a terminal."""
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)[:500])
    return "".join(escaped)


def _wait_for(grid: Grid, num_clients: int, timeout: float) -> list[int]:
    started, said = time.monotonic(), -1
    while len(nodes := list(grid.get_node_ids())) < num_clients:
        if time.monotonic() - started > timeout:
            raise TimeoutError(
                f"Only {len(nodes)} of {num_clients} nodes are connected after {timeout:g} seconds. Start the others, "
                "or set num_clients to the number of nodes."
            )
        if len(nodes) != said:
            log.info("%d of %d nodes are connected", said := len(nodes), num_clients)
        time.sleep(0.2)
    return nodes


def _read(node_id: int, about: ConfigRecord | None) -> Member:
    try:
        assert about is not None
        number, domain, examples = (cast(int, about[key]) for key in (NUMBER, "domain", NUM_EXAMPLES))
        name, classes = about["domain-name"], about["class-names"]
        numbers = all(isinstance(value, int) and value >= 0 for value in (number, domain, examples))
        if not (numbers and isinstance(name, str) and isinstance(classes, list)):
            raise TypeError
    except (AssertionError, KeyError, TypeError) as error:
        raise ValueError(
            f"The answer of node {node_id} does not describe a client. Run the same version of peft_mudpt on all "
            "nodes."
        ) from error
    return Member(node_id, number, domain, name, examples, tuple(map(str, classes)))
