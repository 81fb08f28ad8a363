"""Plans the experiments of a comparison."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

from .arguments import Arguments, RunArguments
from .data.folders import folder_name
from .experiment import select
from .flags import flag_name, parse_flags
from .identity import MODEL_FINGERPRINTS, PICTURES
from .method import MAIN_MEASURES
from .methods import find_method
from .plan import BaseExperiment
from .report.rows import best_learning_rate
from .run_folder import RUN, claim
from .schema import read_result
from .training.checkpoints import LATEST


# Flags of fewshot.py that a sweep decides for each run, and what to do instead.
DECIDED = {
    "protocol": "give --protocol",
    "dataset": "give --datasets",
    "method": "give --methods",
    "shots": "give --shots",
    "seed": "give --seeds",
    "learning_rate": "give --learning_rate_factors",
    "output_dir": "give --output_dir",
    "evaluate_on": "leave it out",
    "resume_from_checkpoint": "leave it out",
    "overwrite_output_dir": "to run again, delete the folders of the runs, or give another --output_dir",
}


def loaded_once() -> Callable[[BaseExperiment], BaseExperiment]:
    """
    Make a function that loads the data of experiments, each data set once.

    Returns:
        A function that returns an experiment whose data are loaded.
    """
    known: dict[Any, Any] = {}

    def load(experiment: BaseExperiment) -> BaseExperiment:
        if experiment.data not in known:
            known[experiment.data] = experiment.loaded()
        return replace(experiment, data=known[experiment.data])

    return load


@dataclass(frozen=True)
class Run:
    """
    One experiment of a sweep.

    Args:
        folder: the folder of the run.
        flags: the command-line arguments of the script for this run.
        kind: the class of the flags that the script takes.
    """

    folder: Path
    flags: list[str]
    kind: type[RunArguments] = Arguments

    def arguments(self) -> Any:
        """Parse and check the flags of the run."""
        return parse_flags(self.kind, self.flags)

    def is_finished(self, pictures: Callable[[BaseExperiment], dict[str, dict[str, str]]]) -> bool:
        """
        Check whether the run has a result.

        Args:
            pictures: what `sweep_runs.known_pictures` returned.

        Raises:
            ValueError: if the folder of the run holds another run.
        """
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
        experiment = self.arguments().experiment().launched(launched)
        identity = experiment.asked
        if (self.folder / RUN).exists():
            identity |= {PICTURES: pictures(experiment), MODEL_FINGERPRINTS: experiment.backbone.fingerprints()}
        return claim(self.folder, identity, of_comparison=True) is not None


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
        flags: further command-line arguments of the script, the same for every run.
        kind: the class of the flags that the script takes: those of fewshot.py, or of another script.

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
    kind: type[RunArguments] = Arguments

    def __post_init__(self):
        for name in ("protocols", "datasets", "methods", "shots", "seeds", "learning_rate_factors"):
            values = getattr(self, name)
            if not values and name != "datasets":
                raise ValueError(f"The list of {name.replace('_', ' ')} is empty; give at least one.")
            if len(set(values)) < len(values):
                raise ValueError(f"The {name.replace('_', ' ')} {values} contain a value twice; give each once.")
        for method in self.methods:
            find_method(method, self.kind.task)
        for name in self.datasets:
            if not name or name in (".", "..") or "/" in name or "\\" in name:
                raise ValueError(
                    f"The folder of a run is named after its data set, and {name!r} is not a valid name for it."
                )
        for given in self.flags:
            if (name := flag_name(given)) in DECIDED:
                raise ValueError(f"A sweep decides --{name} for each run; {DECIDED[name]}.")
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

    def check_data(self) -> list[str]:
        """
        Select pictures for each data set and protocol, so that unusable data stop the sweep before a run starts.

        Returns:
            Remarks about the pictures of the search, such as classes without validation pictures; empty without a
            search.

        Raises:
            ValueError: if a data set cannot be loaded or does not fit its protocol, or if there is a search but no
                class has validation pictures.
        """
        remarks: dict[str, None] = {}
        load = loaded_once()
        asked = [run.arguments().experiment() for run in [*self.search_runs(), *self.runs({})]]
        # one number of shots and one seed show whether the data can be used
        chosen = {(one.data, one.protocol.protocol, one.protocol.evaluate_on): one for one in asked}
        for (_, _, evaluate_on), experiment in chosen.items():
            selection = select(load(experiment))
            if evaluate_on == "validation":
                remarks.update(dict.fromkeys(f"{selection.data.name}: {remark}" for remark in selection.drawn.remarks))
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
            depends_on_shots = protocol == "few-shot" and find_method(method, self.kind.task).is_trained
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
                    found[rate] = result["summary"][MAIN_MEASURES[self.kind.task]]
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
        own = find_method(method, self.kind.task).learning_rate_with(self._asked.optimizer)
        return [] if own is None else [float(f"{own * factor:.6g}") for factor in self.learning_rate_factors]

    def _folder(self, group: tuple, shots: int, seed: int, rate: Optional[float], search: bool) -> Path:
        protocol, dataset, method = group
        folder = self.output_dir / protocol / (dataset or self._default_data) / method
        if search:
            return folder / "learning_rates" / f"{rate:g}"
        return folder / f"shots_{shots}" / f"seed_{seed}"

    @cached_property
    def _asked(self) -> Any:
        """The flags that all runs share, with the first protocol and data set, which other flags may need."""
        given = ["--protocol", self.protocols[0]] + (["--dataset", self.datasets[0]] if self.datasets else [])
        return Run(self.output_dir, [*self.flags, *given], self.kind).arguments()

    @cached_property
    def _default_data(self) -> str:
        """The folder name of the data set that `flags` name; it is used if `datasets` is empty."""
        asked = self._asked
        folder = asked.train_dir and folder_name(Path(asked.train_dir))
        return (folder or asked.dataset_name or asked.dataset).replace("/", "--").replace("..", "--")

    def _run(self, group: tuple, shots: int, seed: int, rate: Optional[float], search: bool = False) -> Run:
        protocol, dataset, method = group
        folder = self._folder(group, shots, seed, rate, search)
        options = {"protocol": protocol, "dataset": dataset, "method": method, "shots": shots, "seed": seed}
        options |= {"learning_rate": rate, "evaluate_on": "validation" if search else "test"}
        options |= {"output_dir": folder, "resume_from_checkpoint": LATEST}
        given = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
        return Run(folder, [*self.flags, *given], self.kind)  # the last of equal flags counts
