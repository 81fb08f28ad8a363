"""Runs the apps on one machine as on many: Flower's SuperLink and SuperNodes as processes, or Flower's simulation."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Optional

from ...optional import install
from .options import FederatedArguments
from .running import claim


APP = Path(__file__).parents[3] / "examples" / "flower"  # holds the pyproject.toml of the apps
HOST, CONNECTION = "127.0.0.1", "here"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # by uv, from a package index, for each run
    "RAY_USAGE_STATS_ENABLED": "0",
}
START = 60  # seconds that a process of Flower may take to start


def run_with_flower(
    arguments: FederatedArguments, simulation: bool, port: Optional[int] = None, logs: Optional[Path] = None
) -> dict[str, Any]:
    """
    Start Flower's processes, submit the federation by `flwr run`, wait for its end, and end the processes.

    Args:
        arguments: the flags of the federation.
        simulation: True: Flower's simulation (Ray), in which a few processes take the part of all clients. False: a
            SuperNode for each client, connected to a SuperLink by HTTP on this machine.
        port: the first of the ports that are used, one for the SuperLink and one per SuperNode; None: free ones.
        logs: folder for the logs of the processes; None: they are dropped.

    Returns:
        The result (see `running.run`).

    Raises:
        ImportError: if Flower, or Ray for the simulation, is not installed.
        ValueError: if a port is in use, or if the output folder holds another run.
        RuntimeError: if a process cannot be started, or the federation fails. The message holds the end of its log.
    """
    arguments = _anywhere(arguments)
    finished = claim(Path(arguments.output_dir), arguments)
    if finished is not None:
        return finished
    if simulation and find_spec("ray") is None:
        raise ImportError('Flower\'s simulation needs ray: pip install "flwr[simulation]"')
    number = 0 if simulation else arguments.num_clients
    ports = _ports(port, 1 + number)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        logs = logs or home
        logs.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "{HOST}:{ports[0]}"\n'
            "insecure = true\n"
        )
        environment = {**os.environ, **QUIET, "FLWR_HOME": str(home), "RAY_TMPDIR": str(home)}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])

        def start(name: str, port: int, command: Sequence[str]) -> None:
            log = logs / f"{name}.log"
            process = stack.enter_context(_running(command, log, environment))
            _wait_for(name, process, port, log)

        link = ["flower-superlink", "--insecure", "--host", HOST, "--port", str(ports[0])]
        start("superlink", ports[0], [*link, "--simulation"] if simulation else link)
        for i in range(number):
            node = ["flower-supernode", "--insecure", "--superlink", f"{HOST}:{ports[0]}", "--host", HOST]
            node += ["--port", str(ports[1 + i]), "--node-config", f"partition-id={i} num-partitions={number}"]
            start(f"supernode-{i}", ports[1 + i], node)
        return _submit(arguments, simulation, logs / "run.log", environment)


def _submit(arguments: FederatedArguments, simulation: bool, log: Path, environment: dict[str, str]) -> dict[str, Any]:
    # in a file, because Flower takes no quotes within a value of the command line; a JSON string is one of TOML, too
    config = Path(environment["FLWR_HOME"]) / "run.toml"
    flags = json.dumps(shlex.join(flags_of(arguments)), ensure_ascii=False)
    config.write_text(f"flags = {flags}\n", encoding="utf-8")
    command = ["flwr", "run", str(APP), CONNECTION, "--stream", "--run-config", str(config)]
    if simulation:
        resources = f"client-resources-num-cpus=1 num-supernodes={arguments.num_clients}"
        command += ["--federation-config", resources]
    with log.open("wb") as file:
        subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    # flwr returns 0 even if the server fails, so only the result tells
    result = claim(Path(arguments.output_dir), replace(arguments, overwrite_output_dir=False))
    if result is None:
        raise RuntimeError(f"The federation failed. The end of its log:\n{_end_of(log)}")
    return result


def _anywhere(arguments: FederatedArguments) -> FederatedArguments:
    """The arguments with absolute paths, because the processes run in other folders."""
    given = {name: getattr(arguments, name) for name in ("domains_dir", "coop_root", "output_dir")}
    if Path(arguments.model_name_or_path).is_dir():
        given["model_name_or_path"] = arguments.model_name_or_path
    paths = {name: str(Path(path).resolve()) for name, path in given.items() if path is not None}
    return replace(arguments, **paths)


def flags_of(arguments: FederatedArguments) -> list[str]:
    """
    List the flags that give these arguments; those with default values are left out, unless these depend on others.

    Args:
        arguments: the flags of a federation.

    Returns:
        The command-line arguments of examples/federated.py.
    """
    flags, implied = [], arguments.implied(Namespace(**vars(arguments)))
    for each in fields(arguments):
        value = getattr(arguments, each.name)
        if value != each.default or f"--{each.name}" in implied:
            flags += [f"--{each.name}", str(value)]
    return flags


def _ports(first: Optional[int], number: int) -> list[int]:
    """Ports that nothing listens on."""
    with ExitStack() as stack:
        found = []
        for i in range(number):
            asked = 0 if first is None else first + i
            if asked > 65535:
                raise ValueError(
                    f"--port {first}: {number} ports are needed, and the last one is 65535. Give a lower one."
                )
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind((HOST, asked))
            except OSError as error:
                raise ValueError(
                    f"Port {asked} of this machine is in use ({error.strerror}). Give another --port; {number} ports "
                    "from it on must be free."
                ) from error
            found.append(probe.getsockname()[1])
        return found


@contextmanager
def _running(command: Sequence[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """Run a process, and end it with all that it has started."""
    with log.open("wb") as file:
        try:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        except FileNotFoundError as error:
            raise ImportError(f"{command[0]} is not installed: {install('federated')}") from error
    try:
        yield process
    finally:
        for sent in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sent)
                process.wait(timeout=10)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue


def _wait_for(name: str, process: subprocess.Popen, port: int, log: Path) -> None:
    """Wait until a process listens on its port."""
    end = time.monotonic() + START
    while process.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"The {name} did not start. The end of its log:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
