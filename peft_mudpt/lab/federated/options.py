"""The flags of examples/federated.py."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Optional

from ...federated.rounds import AGGREGATIONS, Rounds
from ...rules import check_template
from ..backbone import BackboneOptions
from ..data.few_shot_data import DEFAULT_TEMPLATE
from ..flags import Count, OptionalCount, Options, at_least, at_most, flag, more_than
from ..identity import MODEL_FINGERPRINTS
from ..method import CLASSIFICATION, Method
from ..methods import BaseMethodOptions, all_methods, find_method
from ..training.objectives import OBJECTIVES


# Options of the server, which other settings do not have.
OF_SERVER = ("fraction_train", "aggregation", "num_malicious", "clip_norm", "noise_multiplier", "context_momentum")
# Three styles that the embedded CLIP has never seen, and one that it knows.
DOMAINS = "faded,sunset,scribbled,noisy"
SETTINGS = ("federated", "local", "centralized")
PARTITIONS = ("same", "labels", "quantity")


@dataclass(frozen=True)
class ClientOptions(Options):
    """Options that divide pictures over clients. `--help` describes each."""

    title: ClassVar[str] = "the clients"

    domains: str = flag(
        DOMAINS,
        "Comma-separated: styles of the embedded world, folders in --domains_dir, or CoOp's data sets in --coop_root. "
        "All must have the same classes.",
    )
    domains_dir: Optional[str] = flag(
        None,
        "A folder with one folder per domain, each of which holds one folder of pictures per class.",
        metavar="FOLDER",
    )
    coop_root: Optional[str] = flag(None, "The folder that holds CoOp's data sets.", metavar="FOLDER")
    clients_per_domain: Count = flag(1, "Number of clients among which the pictures of a domain are divided.")
    partition: str = flag(
        "same",
        "How. same: each client gets as many pictures of each class. labels: a client gets many of some classes and "
        "few of others. quantity: some clients get more pictures than others.",
        choices=PARTITIONS,
    )
    alpha: Annotated[float, more_than(0)] = flag(
        0.5, "Parameter of the Dirichlet distribution of these shares; the smaller, the more unequal they are."
    )
    shots: Count = flag(16, "Training pictures per class and client, on average.")
    evaluate_on: str = flag(
        "test",
        "validation: test on validation pictures, to choose hyper-parameters; the test pictures are not read.",
        choices=("test", "validation"),
    )
    seed: int = flag(1, "Seed of the partition, the draws, the initial weights and the batches.")

    @property
    def domain_names(self) -> list[str]:
        """The domains, in their order."""
        return [name.strip() for name in self.domains.split(",") if name.strip()]

    def __post_init__(self):
        super().__post_init__()
        names = self.domain_names
        if not names or len(set(names)) < len(names):
            raise ValueError(f"--domains {self.domains!r} names no domain, or one twice; give each domain once.")
        if self.partition != "same" and self.clients_per_domain == 1:
            raise ValueError(
                f"--partition {self.partition} divides the pictures of a domain, but --clients_per_domain is 1. Give "
                "more clients, or leave it out."
            )
        if self.domains_dir is not None and self.coop_root is not None:
            raise ValueError("--domains_dir and --coop_root name two sources of pictures; give only one.")

    @property
    def num_clients(self) -> int:
        """Number of clients of all domains."""
        return len(self.domain_names) * self.clients_per_domain


@dataclass(frozen=True)
class RoundOptions(Options):
    """Options of the rounds; `federated.rounds.Rounds` describes what they do. `--help` describes each."""

    title: ClassVar[str] = "the rounds"

    setting: str = flag(
        "federated",
        "federated: clients train, and a server combines their adapters. local: each client trains alone. "
        "centralized: one adapter is trained on the pictures of all clients.",
        choices=SETTINGS,
    )
    num_rounds: Count = flag(20, "Number of rounds.")
    local_steps: Count = flag(10, "Optimizer steps of a client in a round.")
    fraction_train: Annotated[float, more_than(0), at_most(1)] = flag(
        1.0, "Share of the clients that train in a round, drawn at random."
    )
    evaluate_every: Count = flag(5, "Rounds from one test to the next; the last round is always tested.")
    aggregation: str = flag(
        "mean",
        "How the server combines what clients send: their mean, weighted by their pictures (FedAvg), or one that some "
        "malicious clients cannot spoil.",
        choices=AGGREGATIONS,
    )
    num_malicious: Annotated[int, at_least(0)] = flag(0, "Malicious clients that trimmed_mean and krum withstand.")
    clip_norm: Annotated[Optional[float], more_than(0)] = flag(
        None, "Largest L2 norm of what a client changes in a round; more is scaled down. None: any."
    )
    noise_multiplier: Annotated[float, at_least(0)] = flag(
        0.0, "Noise that the server adds, in units of --clip_norm per client (central differential privacy)."
    )
    context_momentum: Annotated[float, at_least(0), at_most(1)] = flag(
        0.99, "How slowly the contexts of other domains follow on a client; 0: at once. Only for methods with domains."
    )
    timeout: Annotated[float, more_than(0)] = flag(3600, "Seconds that the server waits for clients in a round.")

    def rounds(self, seed: int) -> Rounds:
        """What the server is told."""
        own = {each.name: getattr(self, each.name) for each in fields(Rounds) if each.name != "seed"}
        return Rounds(**own, seed=seed)


@dataclass(frozen=True)
class LocalOptions(Options):
    """Options of the training of a client. `--help` describes each."""

    title: ClassVar[str] = "the training of each client"

    objective: Optional[str] = flag(
        None,
        "The loss. None: the method's default.",
        choices=tuple(name for name in OBJECTIVES if name != "per_picture_loss"),
    )
    optimizer: Optional[str] = flag(None, "Optimizer. None: the method's default.", choices=("sgd", "adamw"))
    learning_rate: Annotated[Optional[float], more_than(0)] = flag(
        None, "Learning rate of the first round; a cosine over the rounds decays it. None: the method's default."
    )
    weight_decay: Annotated[Optional[float], at_least(0)] = flag(None, "None: 5e-4 for sgd, 0.01 for adamw.")
    per_device_train_batch_size: Count = flag(32, "Pictures per step in training.")
    per_device_eval_batch_size: Count = flag(100, "Pictures per forward pass in testing.")
    class_batch_size: OptionalCount = flag(None, "Classes encoded at a time. None: the size of the model decides.")


@dataclass(frozen=True)
class FederatedArguments(LocalOptions, RoundOptions, ClientOptions, BaseMethodOptions, BackboneOptions):
    """
    All flags of examples/federated.py. They are checked on creation.

    Raises:
        ValueError: if a value is out of range or contradicts another; the message names the flag.
    """

    title: ClassVar[str] = "the texts of classes, and where the run is stored"

    task: ClassVar[str] = CLASSIFICATION

    method: str = flag("fed_dpt", f"One of {', '.join(all_methods())}, if it leaves an adapter.")
    template: str = flag(
        DEFAULT_TEMPLATE,
        "Text of a class, with {} for its name, the same for all clients. Text prompts replace its first words.",
    )
    output_dir: str = flag("outputs/federated", "Folder for the adapter and federation.json.", metavar="FOLDER")
    overwrite_output_dir: bool = flag(False, "Delete what an earlier run has left in --output_dir.")

    def __post_init__(self):
        super().__post_init__()
        check_template(self.template, "--template")
        method = self.found_method
        if not (method.leaves_adapter and method.has_steps):
            raise ValueError(f"--method {self.method} leaves no adapter that clients could send. Choose another.")
        if (
            method.anchors
            or method.averaging
            or method.adversarial
            or method.initialize
            or method.prompt_initialization
        ):
            raise ValueError(
                f"--method {self.method} trains by more than a loss (anchors, averages, attacks or pictures to start "
                "from), which clients do not do. Choose another, such as mudpt, coop, fed_dpt or lora."
            )
        if self.has_domains and len(self.domain_names) < 2:
            raise ValueError(
                f"--method {self.method} learns a context per domain, but --domains {self.domains} is one. Give at "
                "least two, or choose coop."
            )
        self._check_setting()
        self.rounds(self.seed).clients_per_round(self.num_clients)

    def _check_setting(self) -> None:
        """Refuse options of the server where there is none, or no domains."""
        defaults = {each.name: each.default for each in fields(self)}
        changed = [name for name in OF_SERVER if getattr(self, name) != defaults[name]]
        if changed and self.setting != "federated":
            raise ValueError(
                f"--{' and --'.join(changed)} are for the server, but --setting {self.setting} has none. Leave them "
                "out."
            )
        if "context_momentum" in changed and not self.has_domains:
            raise ValueError(
                f"--context_momentum {self.context_momentum:g} concerns contexts of domains, but --method "
                f"{self.method} has none. Leave it out."
            )

    @property
    def found_method(self) -> Method:
        """The record of the method."""
        return find_method(self.method, self.task)

    @property
    def has_domains(self) -> bool:
        """True if the method has prompts of their own for domains."""
        return self.found_method.fields.get("num_domains") is not None

    def fields_of_config(self) -> dict[str, Any]:
        """The fields of the adapter's config that replace the method's."""
        names = self.domain_names
        domains = {"num_domains": len(names), "domain_names": names} if self.has_domains else {}
        return {**domains, **self.config_fields()}

    @property
    def asked(self) -> dict[str, Any]:
        """The options that determine the result, by flag."""
        others = ("output_dir", "overwrite_output_dir", "timeout")
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in others}

    def identity(self) -> dict[str, Any]:
        """What determines the result, except for the pictures, which only the clients see."""
        return {**self.asked, MODEL_FINGERPRINTS: self.fingerprints()}


@dataclass(frozen=True)
class FlowerArguments(FederatedArguments):
    """All flags of examples/federated_flower.py: those of a federation, and how Flower runs it."""

    title: ClassVar[str] = "Flower's processes"

    simulation: bool = flag(False, "Use Flower's simulation, in which a few processes take the part of all clients.")
    port: Annotated[Optional[int], at_least(1), at_most(65535)] = flag(
        None, "First of the ports that the processes use. None: free ones."
    )
    logs: Optional[str] = flag(None, "Folder for the logs of the processes. None: they are dropped.", metavar="FOLDER")

    def __post_init__(self):
        super().__post_init__()
        if self.setting != "federated":
            raise ValueError(
                f"--setting {self.setting} has no server that Flower could run. Use examples/federated.py."
            )

    @property
    def federation(self) -> FederatedArguments:
        """The flags of the federation alone."""
        return FederatedArguments(**{each.name: getattr(self, each.name) for each in fields(FederatedArguments)})
