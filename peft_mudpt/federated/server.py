"""The server of a federation: it runs the rounds, and goes on after the last finished one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, Optional

from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .arrays import Arrays, from_record, mismatch, to_record
from .domains import number_of_domains
from .members import Member
from .rounds import Round, Rounds
from .strategy import AdapterStrategy


CHECKPOINT = "federation.safetensors"
LATEST, SLOW = "latest/", "slow/"


def run_rounds(
    grid: Grid,
    members: list[Member],
    arrays: Arrays,
    rounds: Rounds,
    folder: Optional[Path] = None,
    on_round: Callable[[Round], None] = lambda _: None,
    identity: Optional[Mapping[str, Any]] = None,
) -> tuple[Arrays, list[Round]]:
    """
    Let the clients learn together. If it is stopped, it ends with the same bits as without a stop, except with noise,
    which nobody can draw again.

    Args:
        grid: Flower's connection to the clients, or an `InProcessGrid`.
        members: the clients (see `members.find_members`).
        arrays: the adapter before the first round (see `adapter_arrays`).
        rounds: how the federation runs.
        folder: where the state is saved after each round, and read if it is there, to go on; None: nowhere.
        on_round: called after each round, and first with round 0, which has the accuracy without the adapter.
        identity: further values, fit for JSON, that determine what clients learn, such as their learning rate. A
            state in `folder` of other values is refused.

    Returns:
        The adapter after the last round, and what happened in each round.

    Raises:
        ValueError: if the clients do not fit the adapter, or if the folder holds the state of other rounds, clients,
            arrays or `identity`.
    """
    _check_domains(arrays, members)
    this = _identity(rounds, members, identity or {})
    state = None if folder is None else _read(folder, arrays, this)
    latest, slow, history = state or (arrays, None, [])
    past = history[-1].number if history else 0
    strategy = AdapterStrategy(rounds, members, latest, slow, past)
    if not history:
        history.append(Round(0, accuracy=_test_without_adapter(strategy, grid)))
        on_round(history[0])

    def end_of_round(server_round: int, record: ArrayRecord) -> Optional[MetricRecord]:
        if server_round:
            history.append(strategy.round)
            if folder is not None:
                _write(folder, from_record(record), strategy.slow, this, history)
            on_round(strategy.round)
        return None

    if past < rounds.num_rounds:
        result = strategy.start(
            grid, to_record(latest), rounds.num_rounds - past, rounds.timeout, evaluate_fn=end_of_round
        )
        if result.arrays:  # empty if no round changed anything
            latest = from_record(result.arrays)
    return latest, history


def _check_domains(arrays: Arrays, members: list[Member]) -> None:
    domains, found = number_of_domains(arrays), {member.domain for member in members}
    if domains and found != set(range(domains)):
        raise ValueError(
            f"The adapter has {domains} domains, but the clients belong to {sorted(found)}. Each domain, counted from "
            "0, needs a client."
        )


def _test_without_adapter(strategy: AdapterStrategy, grid: Grid) -> dict[str, float]:
    messages = [
        Message(RecordDict({}), dst_node_id=node, message_type=MessageType.EVALUATE) for node in strategy.members
    ]
    strategy.aggregate_evaluate(0, grid.send_and_receive(messages, timeout=strategy.rounds.timeout))
    return strategy.round.accuracy


def _identity(rounds: Rounds, members: list[Member], more: Mapping[str, Any]) -> dict[str, Any]:
    """What a state must share with the federation that goes on from it."""
    own = {name: value for name, value in asdict(rounds).items() if name != "timeout"}
    clients = [[member.number, member.domain, member.domain_name, member.num_examples] for member in members]
    whole = {**more, **own, "clients": clients, "class_names": list(members[0].class_names)}
    return json.loads(json.dumps(whole))  # as it will be read


def _write(folder: Path, latest: Arrays, slow: Arrays, this: dict[str, Any], history: list[Round]) -> None:
    """Save the state after a round; a file that is not complete never takes the place of the last one."""
    tensors = {f"{LATEST}{name}": t for name, t in latest.items()} | {f"{SLOW}{name}": t for name, t in slow.items()}
    notes = {"identity": json.dumps(this), "history": json.dumps([asdict(each) for each in history])}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{CHECKPOINT}.partial"
    save_file(tensors, partial, notes)
    os.replace(partial, folder / CHECKPOINT)


def _read(folder: Path, arrays: Arrays, this: dict[str, Any]) -> Optional[tuple[Arrays, Arrays, list[Round]]]:
    """The state after the last finished round; None if there is none."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        saved = json.loads(notes["identity"])
        history = [Round(**each) for each in json.loads(notes["history"])]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}). Delete it to start again.") from error
    latest = {name: tensors[f"{LATEST}{name}"] for name in arrays if f"{LATEST}{name}" in tensors}
    slow = {name.removeprefix(SLOW): tensor for name, tensor in tensors.items() if name.startswith(SLOW)}
    others = [name for name in this if saved.get(name) != this[name]]
    if (reason := mismatch(latest, arrays)) or others:
        differs = reason or ", ".join(f"{name} was {short_repr(saved.get(name))}" for name in others)
        raise ValueError(f"{path} belongs to another federation: {differs}. Give another folder, or delete it.")
    return latest, slow, history
