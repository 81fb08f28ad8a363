"""`AdapterStrategy`: what the server does in a round with the arrays of an adapter."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from .arrays import Arrays, from_record, mismatch, number_of_bytes, to_record
from .client import ARRAYS, CONFIG, METRICS, NUM_EXAMPLES
from .domains import domain_of, follow, sent_arrays
from .members import Member, visible
from .rounds import Round, Rounds, accuracy_by_domain


log = logging.getLogger("flwr")


class AdapterStrategy(Strategy):
    """
    Combines what clients learn of an adapter. One of Flower's own strategies averages the arrays that all clients
    share. Before it, each reply is checked: a client that sends other names, shapes or types, or numbers that are not
    finite, is left out of the round with a line in the log. The result does not depend on the order of the replies.

    The context of a domain is that of its client, or the mean over its clients, weighted by their pictures. A client
    gets slow copies of the contexts of other domains, which follow the latest ones (see `Rounds.context_momentum`).
    Fed-DPT (arXiv 2310.03103) keeps these copies on the clients. Here the server keeps them, because they are the same
    for all clients. Clients then need no memory, and a federation can go on after a restart.

    Args:
        rounds: how the federation runs.
        members: the clients.
        arrays: the adapter before the next round; it gives the names, shapes and types that replies must have.
        slow: the slow copies of the contexts; None: the contexts of `arrays`.
        past: number of rounds that are done already.
    """

    def __init__(
        self,
        rounds: Rounds,
        members: Sequence[Member],
        arrays: Arrays,
        slow: Optional[Arrays] = None,
        past: int = 0,
    ):
        self.rounds = rounds
        self.members = {member.node_id: member for member in members}
        self.expected = arrays
        self.slow = slow or {name: tensor for name, tensor in arrays.items() if domain_of(name) is not None}
        self.past = past
        self.round = Round(past)
        if self.slow and rounds.noise_multiplier:
            raise ValueError(
                "noise_multiplier does not protect the contexts of an adapter with domains, which the server passes "
                "on as they are. Leave it out, or let the clients add noise (flwr.clientapp.mod.LocalDpMod)."
            )
        if self.slow and rounds.aggregation != "mean" and len({member.domain for member in members}) < len(members):
            raise ValueError(
                f"aggregation={rounds.aggregation!r} concerns the arrays that all clients share; the context of a "
                "domain with several clients is their mean. Choose mean, or give each client a domain of its own."
            )
        able = [member for member in members if member.num_examples]
        for member in members:
            if not member.num_examples:
                log.warning("client %d has no training pictures, and is left out", member.number)
        self._able = sorted(able, key=lambda member: member.number)
        self._number = rounds.clients_per_round(len(able))
        self.inner = rounds.strategy(self._number)

    def participants(self, number: int) -> list[Member]:
        """The clients that train in a round, drawn by the seed and the number of the round."""
        chosen = random.Random(f"{self.rounds.seed} {number}").sample(self._able, self._number)
        return sorted(chosen, key=lambda member: member.number)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.round = Round(self.past + server_round)
        latest = from_record(arrays)
        self._sent = latest
        chosen = self.participants(self.round.number)
        shared = to_record(_shared(latest))
        # Flower's strategy sees the chosen nodes and the shared arrays only, and may remember them
        nodes = cast(Grid, _Nodes([member.node_id for member in chosen]))
        of_strategy = {
            message.metadata.dst_node_id: message.content.config_records[CONFIG]
            for message in self.inner.configure_train(self.round.number, shared, config, nodes)
        }
        messages = []
        for member in chosen:
            own = self._for_member(latest, member)
            self.round.bytes_down += number_of_bytes(own)
            content = RecordDict({ARRAYS: to_record(own), CONFIG: of_strategy[member.node_id]})
            messages.append(Message(content, dst_node_id=member.node_id, message_type=MessageType.TRAIN))
        return messages

    def _for_member(self, latest: Arrays, member: Member) -> Arrays:
        """What a client gets: its own context and all shared arrays as they are, the other contexts as slow copies."""
        return {**latest, **{name: t for name, t in self.slow.items() if domain_of(name) != member.domain}}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[Optional[ArrayRecord], Optional[MetricRecord]]:
        replies = list(replies)
        sound: list[tuple[Member, Message, Arrays]] = []
        for member, message in self._by_number(replies):
            try:
                sound.append((member, message, self._usable(member, message)))
            except ValueError as error:
                self._leave_out(member, str(error))
        lost = [visible(message.error.reason) for message in replies if message.has_error() and self._is_lost(message)]
        answered = {str(member.number) for member, *_ in sound} | self.round.left_out.keys()
        for member in self.participants(self.round.number):
            if str(member.number) not in answered:
                reasons = f" ({'; '.join(lost)})" if lost else ""
                self._leave_out(member, f"no answer within {self.rounds.timeout:g} seconds{reasons}")
        if len(sound) < self.rounds.least_replies:
            log.warning("round %d changes nothing: %d usable replies", self.round.number, len(sound))
            return None, None
        self.round.trained = [member.number for member, *_ in sound]
        self._reduce(sound)
        self.rounds.fit(self.inner, len(sound))
        with _unpredictable():
            record, metrics = self.inner.aggregate_train(self.round.number, [message for _, message, _ in sound])
        assert record is not None, "there are replies"
        combined = {name: tensor.float() for name, tensor in from_record(record).items()}
        latest = {**self._sent, **combined, **_contexts(sound)}
        latest = {name: latest[name] for name in self.expected}
        if reason := mismatch(latest, self.expected):
            log.warning("round %d changes nothing: after aggregation, %s", self.round.number, reason)
            return None, None
        self.slow = follow(self.slow, latest, self.rounds.context_momentum)
        self.round.loss = None if metrics is None else cast(Optional[float], metrics.get("loss"))
        return to_record(latest), metrics

    def _reduce(self, sound: Sequence[tuple[Member, Message, Arrays]]) -> None:
        """
        Leave in each reply only what Flower's strategy combines: the shared arrays, and the metrics that all replies
        have. Flower refuses all replies if one has more.
        """
        found = [dict(message.content.metric_records[METRICS]) for _, message, _ in sound]
        common = set.intersection(*({n for n, v in each.items() if isinstance(v, (int, float))} for each in found))
        for (member, message, arrays), metrics in zip(sound, found):
            kept: dict[str, Any] = {name: value for name, value in metrics.items() if name in common}
            kept[NUM_EXAMPLES] = 1 if self.rounds.noise_multiplier else member.num_examples
            for name in list(message.content):
                del message.content[name]
            message.content[ARRAYS] = to_record(_shared(arrays))
            message.content[METRICS] = MetricRecord(kept)

    def _by_number(self, replies: Iterable[Message]) -> list[tuple[Member, Message]]:
        """The replies of the clients, by their number, so that the order in which they come changes no bit."""
        pairs = [(self.members.get(message.metadata.src_node_id), message) for message in replies]
        known = [(member, message) for member, message in pairs if member is not None]
        return sorted(known, key=lambda pair: pair[0].number)

    def _is_lost(self, message: Message) -> bool:
        """Whether Flower answers in place of a node that is gone, whose number it does not tell."""
        return message.metadata.src_node_id not in self.members

    def _usable(self, member: Member, message: Message) -> Arrays:
        """The arrays of a reply, clipped. Raises a ValueError that says why they cannot be used."""
        arrays = self._clipped(self._read(member, message), member)
        if self.rounds.noise_multiplier and all(torch.equal(arrays[name], self._sent[name]) for name in arrays):
            raise ValueError("it changed nothing, and Flower's noise divides by the norm of the change")
        return arrays

    def _read(self, member: Member, message: Message) -> Arrays:
        if message.has_error():
            raise ValueError(f"it reported an error: {message.error.reason}")
        records, metrics = message.content.array_records, message.content.metric_records
        if ARRAYS not in records or len(metrics) != 1 or METRICS not in metrics:
            raise ValueError(
                f"its reply holds {', '.join(message.content) or 'nothing'}, not one record each of "
                f"{ARRAYS} and {METRICS}"
            )
        arrays = from_record(records[ARRAYS])
        self.round.bytes_up += number_of_bytes(arrays)
        if reason := mismatch(arrays, sent_arrays(self.expected, member.domain)):
            raise ValueError(reason)
        examples = metrics[METRICS].get(NUM_EXAMPLES)
        if examples != member.num_examples:
            raise ValueError(f"it counts {examples!r} pictures now, and counted {member.num_examples} before")
        numbers = [value for value in metrics[METRICS].values() if isinstance(value, float)]
        if not torch.tensor(numbers).isfinite().all():
            raise ValueError("its metrics are not finite")
        return {name: arrays[name] for name in self.expected if name in arrays}  # in the order of the server

    def _clipped(self, arrays: Arrays, member: Member) -> Arrays:
        """Scale down what a client changed, if its L2 norm is larger than `clip_norm`."""
        limit = self.rounds.clip_norm
        if limit is None:
            return arrays
        changes = {name: tensor.double() - self._sent[name].double() for name, tensor in arrays.items()}
        norm = torch.cat([change.flatten() for change in changes.values()]).norm().item()
        if norm <= limit:
            return arrays
        log.warning("round %d: the change of client %d is clipped from %g", self.round.number, member.number, norm)
        return {
            name: (self._sent[name].double() + change * (limit / norm)).float() for name, change in changes.items()
        }

    def _leave_out(self, member: Member, reason: str) -> None:
        self.round.left_out[str(member.number)] = reason = visible(reason)
        log.warning("round %d: client %d is left out: %s", self.round.number, member.number, reason)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if not self.rounds.is_tested(self.round.number):
            return []
        return [
            Message(RecordDict({ARRAYS: arrays, CONFIG: config}), dst_node_id=node, message_type=MessageType.EVALUATE)
            for node in self.members
        ]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> Optional[MetricRecord]:
        if not self.rounds.is_tested(self.round.number):
            return None
        tests: dict[int, tuple[Member, int, float]] = {}
        for member, message in self._by_number(replies):
            if message.has_error():
                log.warning("client %d could not test: %s", member.number, visible(message.error.reason))
                continue
            metrics: dict[str, Any] = dict(message.content.metric_records.get(METRICS, {}))
            number, accuracy = metrics.get(NUM_EXAMPLES), metrics.get("accuracy")
            if not (
                isinstance(number, int) and number >= 0 and isinstance(accuracy, (int, float)) and 0 <= accuracy <= 100
            ):
                log.warning("client %d sent no accuracy from 0 to 100", member.number)
                continue
            tests[member.number] = member, number, accuracy
        self.round.untested = sorted({member.number for member in self.members.values()} - tests.keys())
        if self.round.untested:
            log.warning("round %d: the tests of clients %s are missing", self.round.number, self.round.untested)
        by_domain = sorted(tests.values(), key=lambda test: (test[0].domain, test[0].number))
        self.round.accuracy = accuracy_by_domain(
            (member.domain_name, number, accuracy) for member, number, accuracy in by_domain
        )
        return MetricRecord(dict(self.round.accuracy)) if self.round.accuracy else None

    def summary(self) -> None:
        self.inner.summary()


@contextmanager
def _unpredictable() -> Iterator[None]:
    """
    Inside of this block, NumPy's global generator, from which Flower draws its noise, begins at a state that nobody
    knows. Elsewhere it may be seeded, and who knows the seed could subtract the noise.
    """
    state = np.random.get_state()
    np.random.seed()
    try:
        yield
    finally:
        np.random.set_state(state)


class _Nodes:
    """The part of a `Grid` by which a strategy of Flower chooses nodes: all of these."""

    def __init__(self, node_ids: list[int]):
        self.node_ids = node_ids

    def get_node_ids(self) -> list[int]:
        return self.node_ids


def _shared(arrays: Arrays) -> Arrays:
    return {name: tensor for name, tensor in arrays.items() if domain_of(name) is None}


def _contexts(sound: Sequence[tuple[Member, Message, Arrays]]) -> Arrays:
    """The contexts of the domains: that of the client of a domain, or the weighted mean of its clients."""
    owners: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for member, _, arrays in sound:
        for name, tensor in arrays.items():
            if domain_of(name) is not None:
                owners.setdefault(name, []).append((member.num_examples, tensor))
    combined = {}
    for name, parts in owners.items():
        total = sum(number for number, _ in parts)
        mean = sum(tensor.double() * (number / total) for number, tensor in parts)
        combined[name] = parts[0][1] if len(parts) == 1 else cast(torch.Tensor, mean).float()
    return combined
