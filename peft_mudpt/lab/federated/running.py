"""Runs a federation, or what it is compared with, from flags, and saves the adapter and `federation.json`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any, Optional

from accelerate import Accelerator
from flwr.serverapp import Grid
from tqdm import tqdm

from ...federated.client import client_app
from ...federated.in_process import InProcessGrid, in_process
from ...federated.rounds import Round
from ...federated.server import CHECKPOINT
from ..differences import differences_of_flags, differences_of_models
from ..environment import hardware, versions
from ..identity import MODEL_FINGERPRINTS
from ..run_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, lock
from ..saving import save_learned
from ..storage import read_json, write_json
from ..terminal import printable
from .options import FederatedArguments
from .settings import Clients, train_with_server, train_without_server


RESULT = "federation.json"  # written last, so that its presence means that the run has finished
FILES = (RESULT, CHECKPOINT, ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD)


def run(arguments: FederatedArguments, grid: Optional[Grid] = None) -> dict[str, Any]:
    """
    Let clients learn, and save the adapter and `federation.json` in `arguments.output_dir`.

    If this folder already holds the result of the same run, return it. If it holds the state of this federation after
    some round, go on from there.

    Args:
        arguments: the flags.
        grid: Flower's connection to the clients; None: the clients run in this process, one after another.

    Returns:
        The result: `arguments`, `model_files` (see `BackboneOptions.fingerprints`), `clients`, `rounds` (see
        `federated.rounds.Round`), `accuracy` in percent by domain, their `mean` (None if no client has test pictures,
        or a test is missing), the same without the adapter (`zero_shot`, `zero_shot_mean`), `megabytes` that all
        clients have sent and received in training, `trainable_parameters`, `adapter_bytes`, `seconds`, `versions` and
        `hardware`.

    Raises:
        ValueError: if an option or the data cannot be used, or if the folder holds another run.
        TimeoutError: if clients are missing.
    """
    folder = Path(arguments.output_dir)
    with lock(folder):
        finished = claim(folder, arguments)
        result = finished or _run_in(folder, arguments, grid)
    for name, value in lines(result):
        say(name, value)
    say("already done" if finished else "saved to", folder)
    if not finished:
        say("seconds", f"{result['seconds']:.0f}")
    return result


def claim(folder: Path, arguments: FederatedArguments) -> Optional[dict[str, Any]]:
    """
    Check that a run may use a folder.

    Args:
        folder: the folder; it need not exist.
        arguments: the flags; with `overwrite_output_dir`, the files of an earlier run are deleted.

    Returns:
        The result of the same run, if the folder holds it; else None.

    Raises:
        ValueError: if the folder holds another run, or an adapter that no federation has written.
    """
    found = [folder / name for name in FILES if (folder / name).exists()]
    if arguments.overwrite_output_dir:
        for path in found:
            path.unlink()
        return None
    if not (folder / RESULT).exists():
        foreign = [path.name for path in found if path.name != CHECKPOINT]
        if foreign and not (folder / CHECKPOINT).exists():
            raise ValueError(
                f"{folder} holds {', '.join(foreign)}, which no federation has written. Give another --output_dir."
            )
        return None
    result = read_json(folder / RESULT)
    flags = differences_of_flags(result.get("arguments", {}), arguments.asked, arguments.asked)
    changed = [*flags, *differences_of_models(result, arguments.identity())]
    if changed:
        raise ValueError(
            f"{folder} holds another run ({'; '.join(changed)}). Give another --output_dir, or --overwrite_output_dir."
        )
    return result


def _run_in(folder: Path, arguments: FederatedArguments, grid: Optional[Grid]) -> dict[str, Any]:
    started = time.perf_counter()
    model_files = arguments.fingerprints()  # before the model is loaded: the files may change while it learns
    if grid is not None and arguments.setting != "federated":
        raise ValueError(f"--setting {arguments.setting} has no server; run examples/federated.py.")
    with in_process() if grid is None else nullcontext(), _progress(arguments) as on_round:
        if arguments.setting == "federated":
            grid = grid or InProcessGrid(client_app(Clients(arguments), tells_errors=True), arguments.num_clients)
            trained = train_with_server(arguments, grid, folder, on_round)
        else:
            trained = train_without_server(arguments, arguments.setting == "centralized", on_round)
    bench, arrays, history, clients = trained
    size = 0
    if arrays is not None:
        bench.load(arrays)
        size = save_learned(bench.learner, bench.class_names, bench.texts, folder)
    result = {
        "arguments": arguments.asked,
        MODEL_FINGERPRINTS: model_files,
        "clients": clients,
        "rounds": [asdict(each) for each in history],
        "zero_shot": history[0].accuracy,
        "zero_shot_mean": _mean(history[0]),
        "accuracy": history[-1].accuracy,
        "mean": _mean(history[-1]),
        "megabytes": sum(each.bytes_up + each.bytes_down for each in history) / 1e6,
        "trainable_parameters": sum(tensor.numel() for tensor in bench.initial.values()),
        "adapter_bytes": size,
        "seconds": time.perf_counter() - started,
        "versions": versions(),
        "hardware": hardware(Accelerator()),
    }
    write_json(folder / RESULT, result)
    return result


def _mean(tested: Round) -> Optional[float]:
    """The mean accuracy over the domains; None if no domain was tested, or a test is missing."""
    return mean(tested.accuracy.values()) if tested.accuracy and not tested.untested else None


class _progress:
    """A progress bar over the rounds, which shows the loss and the mean accuracy."""

    def __init__(self, arguments: FederatedArguments):
        self._bar = tqdm(total=arguments.num_rounds, desc="rounds")
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Callable[[Round], None]:
        return self._advance

    def __exit__(self, *_) -> None:
        self._bar.close()

    def _advance(self, done: Round) -> None:
        if done.loss is not None:
            self._shown["loss"] = f"{done.loss:.3f}"
        if done.accuracy:
            self._shown["accuracy"] = f"{mean(done.accuracy.values()):.1f}"
        self._bar.n = done.number
        self._bar.set_postfix(self._shown)


def lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    """
    Put a result into words.

    Args:
        result: what `run` returned.

    Returns:
        Names and values, to be printed.
    """
    arguments, last = result["arguments"], result["rounds"][-1]
    pictures = sum(client["pictures"] for client in result["clients"])
    found = [
        ("CLIP", arguments["model_name_or_path"]),
        ("method", f"{arguments['method']}, {arguments['setting']}"),
        ("trainable parameters", f"{result['trainable_parameters']:,}"),
        ("clients", f"{len(result['clients'])} with {pictures:,} training pictures"),
        ("rounds", str(last["number"])),
    ]
    for name, accuracy in result["accuracy"].items():
        found.append((f"accuracy of {name}", _change(result["zero_shot"].get(name), accuracy)))
    found.append(("mean of the domains", _change(result["zero_shot_mean"], result["mean"])))
    left_out = sum(len(each["left_out"]) for each in result["rounds"])
    if left_out:
        found.append(("left out", f"{left_out} replies (federation.json says why)"))
    if result["megabytes"]:
        found.append(("exchanged", f"{result['megabytes']:.2f} MB"))
    return found


def _change(before: Optional[float], after: Optional[float]) -> str:
    """Two accuracies in percent, if they are known."""
    return " -> ".join("n/a" if accuracy is None else f"{accuracy:.1f}" for accuracy in (before, after)) + " %"


def say(name: str, value: Any) -> None:
    """
    Print one line.

    Args:
        name: label of the line.
        value: what follows the label.
    """
    print(f"{name:<26}{printable(str(value))}")
