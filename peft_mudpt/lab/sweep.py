"""Many experiments: which they are, and how they are run, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Optional

from tqdm import tqdm
from transformers import HfArgumentParser

from .arguments import Arguments
from .data.sources import folder_name
from .identity import what_was_asked
from .methods import find_method
from .report.rows import best_learning_rate
from .run_folder import claim
from .schema import read_result
from .training.checkpoints import LATEST


# What a sweep decides for each run by itself, and the flag by which it is told.
DECIDED = {
    "protocol": "--protocol",
    "dataset": "--datasets",
    "method": "--methods",
    "shots": "--shots",
    "seed": "--seeds",
    "learning_rate": "--learning_rate_factors",
    "output_dir": "--output_dir",
    "evaluate_on": None,
    "resume_from_checkpoint": None,
    "overwrite_output_dir": None,
}
LOG = "log.txt"
NO_NUMBER = FloatingPointError.__name__  # what a run ends with whose learning rate was too high


@dataclass(frozen=True)
class Run:
    """One experiment of a sweep: where it is kept, and the flags that ask for it."""

    folder: Path
    flags: list[str]

    def arguments(self) -> Arguments:
        """The flags, read and checked."""
        return HfArgumentParser(Arguments, allow_abbrev=False).parse_args_into_dataclasses(self.flags)[0]

    def is_finished(self) -> bool:
        """
        Raises:
            ValueError: if its folder holds another run.
        """
        return claim(self.folder, what_was_asked(self.arguments())) is not None


@dataclass(frozen=True)
class Sweep:
    """
    What is compared. Every list must hold something, but `datasets`: without any, `flags` say which data.

    Args:
        output_dir: where runs are kept, a folder for each.
        protocols: the few-shot protocol takes all `shots`, the others the largest.
        datasets: names for `Arguments.dataset`.
        methods: names of methods.
        shots: training pictures per class.
        seeds: seeds of draws, weights and batches.
        learning_rate_factors: each method's own learning rate times these is tried, see `search_runs`.
        flags: for every run.

    Raises:
        ValueError: if a list is empty, a method is unknown, a data set's name leads out of the folder, or `flags` hold
            what the sweep decides.
    """

    output_dir: Path
    protocols: list[str]
    datasets: list[str]
    methods: list[str]
    shots: list[int]
    seeds: list[int]
    learning_rate_factors: list[float] = field(default_factory=lambda: [1.0])
    flags: list[str] = field(default_factory=list)

    def __post_init__(self):
        for name in ("protocols", "datasets", "methods", "shots", "seeds", "learning_rate_factors"):
            values = getattr(self, name)
            if not values and name != "datasets":
                raise ValueError(f"A sweep needs at least one of its {name.replace('_', ' ')}.")
            if len(set(values)) < len(values):
                raise ValueError(f"A sweep runs everything once; its {name.replace('_', ' ')} are {values}.")
        for method in self.methods:
            find_method(method)
        for name in self.datasets:
            if not name or name in (".", "..") or "/" in name or "\\" in name:
                raise ValueError(f"A run is kept in a folder named after its data set; {name!r} leads elsewhere.")
        for given in self.flags:
            name = given.split("=")[0].removeprefix("--").replace("-", "_")
            if given.startswith("--") and name in DECIDED:
                instead = f"give {DECIDED[name]}" if DECIDED[name] else "leave it out"
                raise ValueError(f"A sweep decides --{name} for each run; {instead}.")
        for run in [*self.search_runs(), *self.runs({})]:
            run.arguments()

    def search_runs(self) -> list[Run]:
        """
        What must be run to choose learning rates: each trained method at each rate with the first seed and the most
        shots, evaluated on the validation pictures of its training classes. None if there is but one factor.
        """
        if len(self.learning_rate_factors) == 1:
            return []
        return [
            self._run(group, max(self.shots), self.seeds[0], rate, search=True)
            for group in self._groups()
            for rate in self._learning_rates(group[2])
        ]

    def runs(self, learning_rates: dict[tuple, float]) -> list[Run]:
        """What is compared, with the learning rates that `chosen_learning_rates` gives."""
        runs = []
        for group in self._groups():
            protocol, _, method = group
            depends_on_shots = protocol == "few-shot" and find_method(method).is_trained
            rate = learning_rates.get(group, next(iter(self._learning_rates(method)), None))
            for shots in self.shots if depends_on_shots else [max(self.shots)]:
                runs += [self._run(group, shots, seed, rate) for seed in self.seeds]
        return runs

    def chosen_learning_rates(self) -> dict[tuple, float]:
        """
        The learning rate of every protocol, data set and method with the highest accuracy on the validation pictures;
        of equals the lowest.

        Raises:
            RuntimeError: if none of a method's rates has a result.
        """
        chosen = {}
        if len(self.learning_rate_factors) == 1:
            return chosen
        for group in self._groups():
            found = {}
            for rate in self._learning_rates(group[2]):
                result = read_result(self._folder(group, max(self.shots), self.seeds[0], rate, search=True))
                if result is not None:
                    found[rate] = result["summary"]["accuracy"]
            if found:
                chosen[group] = best_learning_rate(found)
            elif self._learning_rates(group[2]):
                raise RuntimeError(f"No learning rate of {' / '.join(map(str, group))} has a result to choose by.")
        return chosen

    def _groups(self) -> list[tuple[str, Optional[str], str]]:
        """Protocol, data set and method of the runs that share a learning rate."""
        datasets = self.datasets or [None]
        return [(p, d, m) for p in self.protocols for d in datasets for m in self.methods]

    def _learning_rates(self, method: str) -> list[float]:
        own = find_method(method).learning_rate
        return [] if own is None else [float(f"{own * factor:.6g}") for factor in self.learning_rate_factors]

    def _folder(self, group: tuple, shots: int, seed: int, rate: Optional[float], search: bool) -> Path:
        protocol, dataset, method = group
        folder = self.output_dir / protocol / (dataset or self._default_data) / method
        if search:
            return folder / "learning_rates" / f"{rate:g}"
        return folder / f"shots_{shots}" / f"seed_{seed}"

    @cached_property
    def _default_data(self) -> str:
        """The name of the data that `flags` ask for, fit for a folder."""
        asked = Run(self.output_dir, self.flags).arguments()
        folder = asked.train_dir and folder_name(Path(asked.train_dir))
        return (folder or asked.dataset_name or asked.dataset).replace("/", "--").replace("..", "--")

    def _run(self, group: tuple, shots: int, seed: int, rate: Optional[float], search: bool = False) -> Run:
        protocol, dataset, method = group
        folder = self._folder(group, shots, seed, rate, search)
        options = {"protocol": protocol, "dataset": dataset, "method": method, "shots": shots, "seed": seed}
        options |= {"learning_rate": rate, "evaluate_on": "validation" if search else "test"}
        options |= {"output_dir": folder, "resume_from_checkpoint": LATEST}
        given = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
        return Run(folder, ["--checkpointing_steps", "500", *self.flags, *given])  # of equal flags the last counts


def run_all(runs: Sequence[Run], command: list[str], jobs: int, title: str, tolerated: Optional[str] = None) -> None:
    """
    Run what has no result yet.

    Args:
        runs: the experiments.
        command: what runs one, given its flags.
        jobs: how many at a time. The processor's cores are shared out among them.
        title: of the progress bar.
        tolerated: the kind of error that is no failure, but leaves no result.

    Raises:
        ValueError: if a folder holds another run; before anything is run.
        RuntimeError: if runs failed; after the others have finished.
    """
    if jobs < 1:
        raise ValueError(f"--jobs {jobs} is too few; give at least 1.")
    missing = [run for run in runs if not run.is_finished()]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

    def start(run: Run) -> int:
        run.folder.mkdir(parents=True, exist_ok=True)
        with open(run.folder / LOG, "w", encoding="utf-8") as log:
            return subprocess.run([*command, *run.flags], stdout=log, stderr=log, env=environment).returncode

    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(start, run): run for run in missing}
        bar = tqdm(as_completed(started), desc=title, total=len(runs), initial=len(runs) - len(missing))
        try:
            for done in bar:
                run = started[done]
                if done.result() != 0 and not (tolerated and last_words(run).startswith(tolerated)):
                    failed.append(run)
        except BaseException:  # an interruption: what has not begun shall not begin
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        causes = [f"{run.folder}: {last_words(run)}" for run in failed]
        raise RuntimeError(
            f"{len(failed)} of {len(runs)} runs failed; {LOG} in their folders says why.\n" + "\n".join(causes)
        )


def last_words(run: Run) -> str:
    """The last line of a run's log."""
    lines = (run.folder / LOG).read_text(encoding="utf-8").strip().splitlines()
    return lines[-1] if lines else "(empty log)"
