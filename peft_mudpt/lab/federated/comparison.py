"""Plans and runs a comparison of federated methods with each other, with clients alone, and with pooled pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..flags import flag, flag_name, parse_flags
from ..jobs import JobOptions
from ..method import CLASSIFICATION
from ..methods import find_method
from ..report.rows import best_learning_rate
from ..storage import read_json
from ..sweep_runs import print_runs, run_all
from ..terminal import DIVERGED
from .options import SETTINGS, FederatedArguments
from .running import RESULT, claim


DECIDED = ("method", "setting", "seed", "learning_rate", "output_dir", "evaluate_on", "overwrite_output_dir")


@dataclass(frozen=True)
class ComparisonOptions(JobOptions):
    """What is compared, and how. `--help` describes each."""

    title: ClassVar[str] = "what is compared"

    methods: str = flag("coop,fed_dpt,mudpt,lora", "Comma-separated names as for --method of a single run.")
    settings: str = flag(",".join(SETTINGS), "Comma-separated names as for --setting of a single run.")
    seeds: str = flag("1,2,3", "Comma-separated seeds.")
    learning_rate_factors: str = flag(
        "1,3,10,30",
        "Comma-separated factors of each method's default learning rate. Each is tried in the first setting with the "
        "first seed, and the rate with the best accuracy on validation pictures is used for all runs of the method. "
        "One factor: no search.",
    )
    output_dir: str = flag("outputs/lab_federated", "Folder for the runs; each has a subfolder.", metavar="FOLDER")

    def values(self, name: str, kind: type = str) -> list[Any]:
        """
        The values of a comma-separated option.

        Raises:
            ValueError: if there is none, one occurs twice, or one is no number although `kind` is a number.
        """
        text = getattr(self, name)
        try:
            found = [kind(value.strip()) for value in text.split(",") if value.strip()]
        except ValueError as error:
            raise ValueError(f"--{name} {text!r} must be comma-separated numbers.") from error
        if not found or len(set(found)) < len(found):
            raise ValueError(f"--{name} {text!r} names nothing, or something twice; give each once.")
        return found


@dataclass(frozen=True)
class FederatedRun:
    """
    One run of a comparison (see `sweep.Run`).

    Args:
        folder: the folder of the run.
        flags: the command-line arguments of federated.py.
    """

    folder: Path
    flags: list[str]

    def arguments(self) -> FederatedArguments:
        """Parse and check the flags of the run."""
        return parse_flags(FederatedArguments, self.flags)

    def is_finished(self, pictures: Callable) -> bool:
        """Check whether the run has a result. Raises a ValueError if its folder holds another run."""
        return claim(self.folder, self.arguments()) is not None


@dataclass(frozen=True)
class Comparison:
    """
    All combinations of methods, settings and seeds.

    Args:
        options: what is compared.
        flags: further command-line arguments of federated.py, the same for every run.

    Raises:
        ValueError: if an option cannot be used, or the flags hold one that the comparison decides.
    """

    options: ComparisonOptions
    flags: list[str]

    def __post_init__(self):
        for given in self.flags:
            if (name := flag_name(given)) in DECIDED:
                raise ValueError(f"A comparison decides --{name} for each run; leave it out.")
        for run in [*self.search_runs(), *self.runs({})]:
            run.arguments()

    def search_runs(self) -> list[FederatedRun]:
        """List the runs of the search for learning rates; empty if there is one factor."""
        factors = self.options.values("learning_rate_factors", float)
        if len(factors) == 1:
            return []
        return [self._search_run(method, rate) for method in self._methods for rate in self._rates(method)]

    def runs(self, rates: Mapping[str, float]) -> list[FederatedRun]:
        """List the runs of the comparison, at the learning rates of the methods; by default, those of the records."""
        return [
            self._run(
                f"{method}-{setting}-seed{seed}", method, setting, seed, rates.get(method, self._rates(method)[0])
            )
            for method in self._methods
            for setting in self.options.values("settings")
            for seed in self.options.values("seeds", int)
        ]

    def chosen_rates(self) -> dict[str, float]:
        """The learning rate of each method with the best accuracy on validation pictures; empty without a search."""
        if not self.search_runs():
            return {}
        found = {}
        for method in self._methods:
            results = {rate: self._search_run(method, rate).folder / RESULT for rate in self._rates(method)}
            known = {rate: read_json(path)["mean"] for rate, path in results.items() if path.exists()}
            known = {rate: accuracy for rate, accuracy in known.items() if accuracy is not None}
            if not known:
                raise RuntimeError(f"No learning rate of {method} gave an accuracy; see the logs of its runs.")
            found[method] = best_learning_rate(known)
        return found

    def execute(self, script: Path) -> bool:
        """
        Run everything that has no result yet.

        Args:
            script: the path of federated.py.

        Returns:
            True if all runs of the comparison have a result.

        Raises:
            ValueError: if a folder holds another run.
            RuntimeError: if a run failed.
        """
        jobs = self.options.part(JobOptions)
        searches = self.search_runs()
        if jobs.dry_run:
            print_runs([*searches, *self.runs({})], jobs)
            return False
        if searches and not run_all(searches, script, jobs, "learning rates", tolerated=DIVERGED):
            return False
        return run_all(self.runs(self.chosen_rates()), script, jobs)

    def results(self) -> list[dict[str, Any]]:
        """
        Read the results of the comparison, without those of the search.

        Raises:
            RuntimeError: if no client had test pictures.
        """
        results = [read_json(run.folder / RESULT) for run in self.runs(self.chosen_rates())]
        tested = [result for result in results if result["mean"] is not None]
        if not tested:
            raise RuntimeError("No client has test pictures, so that there is nothing to compare. Add pictures.")
        return tested

    @property
    def _methods(self) -> list[str]:
        return self.options.values("methods")

    def _rates(self, method: str) -> list[float]:
        default = find_method(method, CLASSIFICATION).learning_rate
        if default is None:
            raise ValueError(f"--methods names {method}, which trains nothing. Zero-shot CLIP is in each result.")
        return [default * factor for factor in self.options.values("learning_rate_factors", float)]

    def _search_run(self, method: str, rate: float) -> FederatedRun:
        setting, seed = self.options.values("settings")[0], self.options.values("seeds", int)[0]
        name = f"search-{method}-{setting}-seed{seed}-rate{rate:g}"
        return self._run(name, method, setting, seed, rate, ["--evaluate_on", "validation"])

    def _run(
        self, name: str, method: str, setting: str, seed: int, rate: float, more: list[str] | None = None
    ) -> FederatedRun:
        folder = Path(self.options.output_dir) / name
        own = ["--method", method, "--setting", setting, "--seed", str(seed), "--learning_rate", repr(rate)]
        return FederatedRun(folder, [*self.flags, *own, *(more or []), "--output_dir", str(folder)])
