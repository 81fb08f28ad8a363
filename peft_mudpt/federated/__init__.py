"""Federated learning of adapters on Flower (`pip install "peft_mudpt[federated]"`): pictures stay with the clients."""

from importlib.util import find_spec

from ..optional import install


if find_spec("flwr") is None:
    raise ImportError(f"Federated learning needs flwr, which needs Python 3.11 or newer: {install('federated')}")

from .arrays import adapter_arrays, load_adapter_arrays
from .client import Client, client_app
from .domains import train_only_domain
from .in_process import InProcessGrid, in_process
from .members import Member, find_members
from .rounds import Round, Rounds
from .server import run_rounds
from .strategy import AdapterStrategy


__all__ = [
    "AdapterStrategy",
    "Client",
    "InProcessGrid",
    "Member",
    "Round",
    "Rounds",
    "adapter_arrays",
    "client_app",
    "find_members",
    "in_process",
    "load_adapter_arrays",
    "run_rounds",
    "train_only_domain",
]
