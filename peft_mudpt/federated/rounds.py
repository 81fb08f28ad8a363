"""What a federation is told, and what it records of each round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Optional

from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping as Noisy
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, Krum, Strategy

from ..rules import Rule
from .client import ARRAYS, CONFIG, NUM_EXAMPLES


AGGREGATIONS = ("mean", "median", "trimmed_mean", "krum")


_RULES = {
    "num_rounds": Rule("at least 1", lambda value: value >= 1),
    "fraction_train": Rule("more than 0 and at most 1", lambda value: 0 < value <= 1),
    "evaluate_every": Rule("at least 1", lambda value: value >= 1),
    "num_malicious": Rule("at least 0", lambda value: value >= 0),
    "clip_norm": Rule("more than 0, or None", lambda value: value is None or value > 0),
    "noise_multiplier": Rule("at least 0", lambda value: value >= 0),
    "context_momentum": Rule("from 0 to 1", lambda value: 0 <= value <= 1),
    "timeout": Rule("more than 0", lambda value: value > 0),
}


@dataclass(frozen=True)
class Rounds:
    """
    How many rounds a federation has, and how the server combines what the clients send.

    Args:
        num_rounds: number of rounds.
        fraction_train: share of the clients that train in a round, drawn at random; at least one client.
        evaluate_every: number of rounds from one test to the next; the last round is always tested.
        aggregation: how the arrays that all clients share are combined. "mean": FedAvg, weighted by the number of
            pictures (arXiv 1602.05629). "median" of each number. "trimmed_mean" of each number, without the
            `num_malicious` largest and smallest. "krum": the arrays of the client that is nearest to the others (arXiv
            1703.02757). The last three do not weight.
        num_malicious: how many clients may send anything, at least 1 with "trimmed_mean" and "krum".
        clip_norm: largest L2 norm of what a client may change in a round; a larger change is scaled down. None: any.
        noise_multiplier: standard deviation of the noise that the server adds to the shared arrays, in units of
            `clip_norm` divided by the number of clients of the round (central differential privacy). The clients then
            have equal weights. Only with "mean", for whose sensitivity this is the scale.
        context_momentum: how slowly the contexts of other domains on a client follow those of the server; 0: they are
            the server's, 1: they stay. Only for adapters with domains (Fed-DPT).
        timeout: seconds that the server waits for the clients in a round.
        seed: seed of the draw of the clients.

    Raises:
        ValueError: if a value is out of range, or if values contradict each other.
    """

    num_rounds: int = 20
    fraction_train: float = 1.0
    evaluate_every: int = 5
    aggregation: str = "mean"
    num_malicious: int = 0
    clip_norm: Optional[float] = None
    noise_multiplier: float = 0.0
    context_momentum: float = 0.99
    timeout: float = 3600
    seed: int = 1

    def __post_init__(self):
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation={self.aggregation!r} is unknown; it is one of {', '.join(AGGREGATIONS)}.")
        for name, rule in _RULES.items():
            rule.check(getattr(self, name), name)
        if self.noise_multiplier and self.aggregation != "mean":
            raise ValueError(
                f"noise_multiplier={self.noise_multiplier:g} is scaled for the mean, and would protect less with "
                f"aggregation={self.aggregation!r}. Choose mean, or leave the noise out."
            )
        if self.noise_multiplier and self.clip_norm is None:
            raise ValueError(
                f"noise_multiplier={self.noise_multiplier:g} protects only clients whose changes are bounded. Give "
                "clip_norm."
            )
        if self.aggregation in ("trimmed_mean", "krum") and not self.num_malicious:
            raise ValueError(f"aggregation={self.aggregation!r} needs num_malicious, of at least 1.")
        if self.num_malicious and self.aggregation not in ("trimmed_mean", "krum"):
            raise ValueError(
                f"num_malicious={self.num_malicious} has no effect with aggregation={self.aggregation!r}. Leave it "
                "out, or choose trimmed_mean or krum."
            )

    @property
    def least_replies(self) -> int:
        """The number of replies without which a round changes nothing."""
        f = self.num_malicious
        return {"trimmed_mean": 2 * f + 1, "krum": 2 * f + 3}.get(self.aggregation, 1)

    def is_tested(self, number: int) -> bool:
        """Whether the adapter is tested after a round; round 0 is the test without it."""
        return number % self.evaluate_every == 0 or number == self.num_rounds

    def clients_per_round(self, num_clients: int) -> int:
        """
        How many of the clients train in a round.

        Raises:
            ValueError: if these are too few for the aggregation.
        """
        number = max(1, round(self.fraction_train * num_clients))
        if number < self.least_replies:
            raise ValueError(
                f"aggregation={self.aggregation!r} with num_malicious={self.num_malicious} needs at least "
                f"{self.least_replies} clients in a round, but there are {number}. Add clients, or choose mean or "
                "median."
            )
        return number

    def strategy(self, num_clients: int) -> Strategy:
        """
        Flower's strategy that combines the arrays of a round.

        Args:
            num_clients: number of clients that train in a round.
        """
        kinds: dict[str, Callable[..., Strategy]] = {
            "mean": FedAvg,
            "median": FedMedian,
            "trimmed_mean": FedTrimmedAvg,
            "krum": lambda **common: Krum(num_malicious_nodes=self.num_malicious, **common),
        }
        strategy = kinds[self.aggregation](
            min_train_nodes=1,
            min_evaluate_nodes=1,
            min_available_nodes=1,
            weighted_by_key=NUM_EXAMPLES,
            arrayrecord_key=ARRAYS,
            configrecord_key=CONFIG,
        )
        if self.noise_multiplier:
            assert self.clip_norm is not None, "refused above"
            strategy = Noisy(strategy, self.noise_multiplier, self.clip_norm, num_clients)
        return strategy

    def fit(self, strategy: Strategy, num_replies: int) -> None:
        """
        Fit a strategy to the number of clients that are left in a round.

        Args:
            strategy: what `strategy` returned.
            num_replies: the number of replies that are combined.
        """
        if isinstance(strategy, Noisy):
            strategy.num_sampled_clients = num_replies
            strategy = strategy.strategy
        if isinstance(strategy, FedTrimmedAvg):
            # Flower cuts int(beta * n) on each side; the half keeps rounding from cutting one fewer
            strategy.beta = (self.num_malicious + 0.5) / num_replies


def accuracy_by_domain(tests: Iterable[tuple[str, int, float]]) -> dict[str, float]:
    """
    The accuracy of each domain over all its pictures.

    Args:
        tests: of each client the name of its domain, the number of its test pictures, and its accuracy in percent.

    Returns:
        The accuracies in percent, in the order in which the domains come; without domains that have no picture.
    """
    right: dict[str, float] = {}
    seen: dict[str, int] = {}
    for name, number, accuracy in tests:
        right[name] = right.get(name, 0.0) + number * accuracy
        seen[name] = seen.get(name, 0) + number
    return {name: right[name] / seen[name] for name in seen if seen[name]}


@dataclass
class Round:
    """
    What happened in a round.

    Args:
        number: the round, counted from 1; 0 is the test without an adapter before the first.
        trained: numbers of the clients whose arrays were used.
        left_out: why others were not used, by their number as text, as JSON has it.
        bytes_down: bytes of the numbers and names that the server sent for training.
        bytes_up: the same of what the clients sent, used or not, if it could be read.
        loss: mean loss of the clients, as they are weighted; None if one of them sent none.
        accuracy: accuracy in percent by name of the domain; empty if the round was not tested.
        untested: numbers of the clients whose test is missing in `accuracy`.
    """

    number: int
    trained: list[int] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    loss: Optional[float] = None
    accuracy: dict[str, float] = field(default_factory=dict)
    untested: list[int] = field(default_factory=list)
