"""The client of a federation: it trains and tests an adapter on pictures that never leave it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Optional, Protocol, cast

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from .arrays import Arrays, from_record, to_record
from .domains import sent_arrays


log = logging.getLogger("flwr")

# Keys of the records in a message.
ARRAYS, CONFIG, METRICS, CLIENT = "arrays", "config", "metrics", "client"
ROUND, NUM_EXAMPLES, NUMBER = "server-round", "num-examples", "number"
DESCRIBE = "describe"  # the action of the query with which a server begins


class Client(Protocol):
    """
    What a client can do. An implementation trains in any way it likes.

    Attributes:
        number: its number, counted from 0, which no other client has.
        domain: the number of its domain, counted from 0. Clients may share a domain.
        domain_name: the name of its domain.
        class_names: the classes, in the order of the labels. All clients must have the same.
        num_examples: number of training pictures.
    """

    number: int
    domain: int
    domain_name: str
    class_names: Sequence[str]
    num_examples: int

    def train(self, arrays: Arrays, server_round: int) -> tuple[Arrays, dict[str, float]]:
        """
        Train the adapter for one round.

        Args:
            arrays: the adapter as the server sent it.
            server_round: the round, counted from 1.

        Returns:
            The trained adapter, and numbers such as the loss.
        """

    def evaluate(self, arrays: Optional[Arrays]) -> tuple[int, dict[str, float]]:
        """
        Test an adapter.

        Args:
            arrays: the adapter as the server sent it; None: test the model without an adapter.

        Returns:
            The number of test pictures, and numbers, among them `accuracy` in percent.
        """


class ClientError(RuntimeError):
    """What a server learns of an error of a client: its type. The text stays in the log of the client."""


def client_app(
    find_client: Callable[[Context], Client], mods: Optional[list[Mod]] = None, tells_errors: bool = False
) -> ClientApp:
    """
    Make the Flower app of a client.

    A client sends its adapter (of an adapter with domains, the context of its own domain and what all share), its
    number, the names of its domain and its classes, the number of its pictures, and the numbers that it measures. It
    sends no picture, no feature and no context of another domain, and refuses to send arrays that it did not get.

    Args:
        find_client: returns the client of a node, given the context that Flower passes.
        mods: Flower's modifiers of what a client receives and sends in training, such as
            `flwr.clientapp.mod.LocalDpMod`.
        tells_errors: True: the server gets the text of errors, which may name files of the client. False: it gets the
            type of an error only.

    Returns:
        The app.
    """
    app = ClientApp()

    def guarded(function: Callable[[Message, Context], Message]) -> Callable[[Message, Context], Message]:
        @wraps(function)
        def answer(message: Message, context: Context) -> Message:
            try:
                return function(message, context)
            except Exception as error:
                if tells_errors:
                    raise
                log.exception("this client has failed")
                raise ClientError(f"{type(error).__name__} (see the log of the client)") from None

        return answer

    @app.query(DESCRIBE)
    @guarded
    def describe(message: Message, context: Context) -> Message:
        client = find_client(context)
        about: dict[str, Any] = {
            NUMBER: client.number,
            "domain": client.domain,
            "domain-name": client.domain_name,
            NUM_EXAMPLES: client.num_examples,
            "class-names": list(client.class_names),
        }
        return Message(RecordDict({CLIENT: ConfigRecord(about)}), reply_to=message)

    # of training alone: a mod that changes arrays fails for messages without arrays, and Flower drops the reply
    @app.train(mods=mods)
    @guarded
    def train(message: Message, context: Context) -> Message:
        client = find_client(context)
        server_round = cast(int, message.content.config_records[CONFIG][ROUND])
        received = from_record(message.content.array_records[ARRAYS])
        arrays, metrics = client.train(dict(received), server_round)
        if extra := arrays.keys() - received.keys():
            raise ValueError(f"the training returned {sorted(extra)}, which are not in the adapter")
        sent = to_record(sent_arrays(arrays, client.domain))
        measured = MetricRecord({NUM_EXAMPLES: client.num_examples, **metrics})
        return Message(RecordDict({ARRAYS: sent, METRICS: measured}), reply_to=message)

    @app.evaluate()
    @guarded
    def evaluate(message: Message, context: Context) -> Message:
        client = find_client(context)
        record = message.content.array_records.get(ARRAYS)
        number, metrics = client.evaluate(None if record is None else from_record(record))
        measured = MetricRecord({NUM_EXAMPLES: number, **metrics})
        return Message(RecordDict({METRICS: measured}), reply_to=message)

    return app
