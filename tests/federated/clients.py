"""Clients without models: each adds numbers of its own to the arrays that it gets."""

import torch

from peft_mudpt.federated.client import client_app
from peft_mudpt.federated.in_process import InProcessGrid
from peft_mudpt.federated.members import find_members
from peft_mudpt.federated.rounds import Rounds
from peft_mudpt.federated.server import run_rounds


CONTEXT = "prompt_learner.mudpt_adapters.domain_contexts.contexts.{}"
VISION = "prompt_learner.mudpt_adapters.vision_prompts"
CLASSES = ["cat", "dog"]


def shared_arrays():
    """An adapter without domains."""
    return {"a.weight": torch.arange(6.0).view(2, 3), "b.weight": torch.full((4,), 0.5)}


def domain_arrays(number=3):
    """An adapter with domains."""
    return {
        VISION: torch.zeros(1, number, 2),
        **{CONTEXT.format(k): torch.full((2, 3), float(k)) for k in range(number)},
    }


class Adder:
    """A client whose training adds `change` to all numbers, and whose accuracy is 50 plus its number."""

    def __init__(self, number, change=0.0, domain=None, num_examples=10, class_names=CLASSES, name=None):
        self.number = number
        self.change = change
        self.domain = number if domain is None else domain
        self.domain_name = name or f"domain {self.domain}"
        self.class_names = class_names
        self.num_examples = num_examples
        self.got = []

    def train(self, arrays, server_round):
        self.got.append(arrays)
        return {name: tensor + self.change for name, tensor in arrays.items()}, {"loss": float(self.number)}

    def evaluate(self, arrays):
        return 5, {"accuracy": 50.0 + self.number}


class Federation:
    """Runs clients in this process; `grid` may be replaced between two calls."""

    def __init__(self, *clients):
        self.clients = clients
        app = client_app(lambda context: clients[context.node_config["partition-id"]], tells_errors=True)
        self.grid = InProcessGrid(app, len(clients))

    def run(self, arrays, folder=None, identity=None, **fields):
        rounds = Rounds(**{"num_rounds": 1, **fields})
        members = find_members(self.grid, len(self.clients), rounds.timeout)
        return run_rounds(self.grid, members, arrays, rounds, folder, identity=identity)
