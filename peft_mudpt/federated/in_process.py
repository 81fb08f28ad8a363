"""`InProcessGrid`: runs the clients of a federation one after another in this process, without network or Ray."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


RUN_ID, SERVER_ID, FIRST_NODE = 1, 1, 1000  # Flower's own server is node 1, too


class InProcessGrid(Grid):
    """
    Calls the app of the clients for each message, in order. An error of a client becomes a reply with this error, as
    in Flower's own engines.

    Args:
        app: the app of the clients.
        num_clients: number of clients; the `partition-id` of each is its number, counted from 0.
        run_config: what the apps read as `context.run_config`.
    """

    def __init__(self, app: ClientApp, num_clients: int, run_config: Optional[Mapping[str, Any]] = None):
        self._app = app
        self._run = Run.create_empty(run_id=RUN_ID)
        self._replies: dict[str, Message] = {}
        self.contexts = {
            FIRST_NODE + i: Context(
                run_id=RUN_ID,
                node_id=FIRST_NODE + i,
                node_config={"partition-id": i, "num-partitions": num_clients},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for i in range(num_clients)
        }

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: Optional[float] = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            name = _give_id(message)
            self._replies[name] = self._answer(message)
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: Optional[float] = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        try:
            reply = self._app(message, self.contexts[message.metadata.dst_node_id])
        except Exception as error:  # what a client does wrong must not end the others
            reason = f"{type(error).__name__}: {error}"
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        _give_id(reply)
        return reply


def _give_id(message: Message) -> str:
    """Give a message the id that Flower's engines give it when it is sent, and to which a reply refers."""
    name = str(uuid4())
    message.metadata.__dict__["_message_id"] = name
    return name


@contextmanager
def in_process() -> Iterator[None]:
    """Inside of this block, apps can make messages as if Flower had started them, and only warnings are logged."""
    logger = logging.getLogger("flwr")
    level = logger.level
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SERVER_ID
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before
