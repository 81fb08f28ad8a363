"""Plans and runs the experiments of a comparison, each in its own process."""

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
from .data.draws import draw
from .data.folders import folder_name
from .data.options import DataOptions
from .data.sources import load_data
from .identity import what_was_asked
from .methods import find_method
from .protocols import ProtocolOptions, lay_out
from .report.rows import best_learning_rate
from .run_folder import claim
from .schema import read_result
from .training.checkpoints import LATEST


# Flags of fewshot.py that a sweep sets for each run, and the flag of sweep.py to use instead.
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
NO_NUMBER = FloatingPointError.__name__  # the error of a run whose learning rate is too high


@dataclass(frozen=True)
class Run:
    """
    One experiment of a sweep.

    Args:
        folder: the folder of the run.
        flags: the command-line arguments of fewshot.py for this run.
    """

    folder: Path
    flags: list[str]

    def arguments(self) -> Arguments:
        """Parse and check the flags of the run."""
        return HfArgumentParser(Arguments, allow_abbrev=False).parse_args_into_dataclasses(self.flags)[0]

    def is_finished(self) -> bool:
        """
        Check whether the run has a result.

        Raises:
            ValueError: if the folder of the run holds another run.
        """
        return claim(self.folder, what_was_asked(self.arguments())) is not None


@dataclass(frozen=True)
class Sweep:
    """
    A comparison: all combinations of protocols, data sets, methods, numbers of shots and seeds.

    Args:
        output_dir: the folder for the runs; each has a subfolder.
        protocols: names of protocols. Few-shot uses all `shots`, the others only the largest.
        datasets: names as for `Arguments.dataset`; if it is empty, `flags` name the data.
        methods: names of methods.
        shots: numbers of training pictures per class.
        seeds: each seeds the draw of the pictures, the initial weights and the batches of a run.
        learning_rate_factors: each factor times a method's default learning rate is a rate to try (see `search_runs`).
        flags: further command-line arguments of fewshot.py, the same for every run.

    Raises:
        ValueError: if a list other than `datasets` is empty, a value occurs twice, a method is unknown, the name of a
            data set is not a valid folder name, `flags` hold a flag that the sweep sets, or a run has wrong flags.
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
                raise ValueError(f"The list of {name.replace('_', ' ')} is empty; give at least one.")
            if len(set(values)) < len(values):
                raise ValueError(f"The {name.replace('_', ' ')} {values} contain a value twice; give each once.")
        for method in self.methods:
            find_method(method)
        for name in self.datasets:
            if not name or name in (".", "..") or "/" in name or "\\" in name:
                raise ValueError(
                    f"The folder of a run is named after its data set, and {name!r} is not a valid name for it."
                )
        for given in self.flags:
            name = given.split("=")[0].removeprefix("--").replace("-", "_")
            if given.startswith("--") and name in DECIDED:
                instead = f"give {DECIDED[name]}" if DECIDED[name] else "leave it out"
                raise ValueError(f"A sweep sets --{name} for each run; {instead}.")
        for run in [*self.search_runs(), *self.runs({})]:
            run.arguments()

    def search_runs(self) -> list[Run]:
        """
        List the runs of the search for learning rates.

        For each protocol and data set, each trained method is run at each rate (its default rate times each factor)
        with the first seed and the most shots, and evaluated on the validation pictures of its training classes. If
        `learning_rate_factors` holds one value, there is no search, and the list is empty.
        """
        if len(self.learning_rate_factors) == 1:
            return []
        return [
            self._run(group, max(self.shots), self.seeds[0], rate, search=True)
            for group in self._groups()
            for rate in self._learning_rates(group[2])
        ]

    def check_search(self) -> list[str]:
        """
        Draw the pictures of the search, so that unusable data stop the sweep before a run starts.

        Returns:
            Remarks about these pictures, such as classes without validation pictures; empty without a search.

        Raises:
            ValueError: if a data set cannot be loaded, or if none of its classes has validation pictures.
        """
        asked = [run.arguments() for run in self.search_runs()]
        tasks = dict.fromkeys((options.part(DataOptions), options.part(ProtocolOptions)) for options in asked)
        loaded = {options: load_data(options) for options, _ in tasks}
        remarks: dict[str, None] = {}
        for options, protocol in tasks:
            data = loaded[options]
            drawn = draw(data, protocol.shots, protocol.seed, protocol.evaluate_on)
            lay_out(protocol, data, drawn)
            remarks.update(dict.fromkeys(f"{data.name}: {remark}" for remark in drawn.remarks))
        return list(remarks)

    def runs(self, learning_rates: dict[tuple, float]) -> list[Run]:
        """
        List the runs of the comparison.

        Args:
            learning_rates: what `chosen_learning_rates` returned. A combination that is missing gets the method's
                default learning rate times the first factor.
        """
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
        Choose a learning rate for every protocol, data set and method from the results of the search: the one with the
        highest validation accuracy, and in a tie the lowest.

        Returns:
            Learning rates by (protocol, data set, method); empty without a search.

        Raises:
            RuntimeError: if no search run of a trained method has a result, for a protocol and a data set.
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
                raise RuntimeError(f"The learning rate search of {' / '.join(map(str, group))} has no result.")
        return chosen

    def _groups(self) -> list[tuple[str, Optional[str], str]]:
        """List the combinations (protocol, data set, method). All runs of a combination share one learning rate."""
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
        """The folder name of the data set that `flags` name; it is used if `datasets` is empty."""
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
        return Run(folder, ["--checkpointing_steps", "500", *self.flags, *given])  # the last of equal flags counts


def run_all(runs: Sequence[Run], command: list[str], jobs: int, title: str, tolerated: Optional[str] = None) -> None:
    """
    Run the experiments that have no result yet, each in its own process.

    Args:
        runs: the experiments.
        command: the command that runs an experiment; the flags of the run are appended.
        jobs: number of processes at a time. They share the processor's cores.
        title: title of the progress bar.
        tolerated: name of an exception as a traceback prints it. A run whose log ends with it has no result, but does
            not count as failed.

    Raises:
        ValueError: if `jobs` is less than 1, or if the folder of a run holds files of a run with other options, or
            files without a record of their run. Nothing is run then.
        RuntimeError: if a run failed. It is raised after all runs have ended.
    """
    if jobs < 1:
        raise ValueError(f"--jobs {jobs} must be at least 1.")
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
        except BaseException:  # after an interruption, no further run must start
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        causes = [f"{run.folder}: {last_words(run)}" for run in failed]
        raise RuntimeError(
            f"{len(failed)} of {len(runs)} runs failed; see {LOG} in their folders.\n" + "\n".join(causes)
        )


def last_words(run: Run) -> str:
    """
    Read the last line of a run's log, which names the error of a failed run.

    Args:
        run: a run that was started.

    Returns:
        The line; "(empty log)" if there is none.
    """
    lines = (run.folder / LOG).read_text(encoding="utf-8").strip().splitlines()
    return lines[-1] if lines else "(empty log)"
