"""Runs the experiments of sweeps that have no result yet, several at a time, in processes that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

from tqdm import tqdm

from .devices import worker_environments
from .experiment import select
from .plan import BaseExperiment
from .processes import last_words, run_each
from .run_folder import LOCK, lock
from .sweep import Run, Sweep, loaded_once
from .terminal import DIVERGED, printable


LOG = "log.txt"


def run_sweep(sweep: Sweep, script: Path, jobs: Optional[int]) -> None:
    """
    Run all experiments of a sweep that have no result yet: the search for learning rates, then the comparison.

    Args:
        sweep: the comparison.
        script: the script that runs an experiment.
        jobs: see `devices.worker_environments`.

    Raises:
        ValueError: if another process uses the folder, as in `Sweep.check_data`, and as in `run_all`.
        RuntimeError: if a run failed (see `run_all`), or if a search has no result.
    """
    run_sweeps([sweep], sweep.output_dir, script, jobs)


def run_sweeps(sweeps: Sequence[Sweep], folder: Path, script: Path, jobs: Optional[int]) -> None:
    """
    Run several sweeps that differ only in their methods and the options of these.

    Args:
        sweeps: the comparisons, on the same data.
        folder: a folder that holds the folders of all sweeps.
        script: the script that runs an experiment.
        jobs: see `devices.worker_environments`.

    Raises:
        ValueError: as in `run_sweep`.
        RuntimeError: as in `run_sweep`.
    """
    with lock(folder):
        for remark in sweeps[0].check_data():
            print("note:", printable(remark))
        searches = [run for sweep in sweeps for run in sweep.search_runs()]
        if searches:
            run_all(searches, script, jobs, "learning rates", tolerated=DIVERGED)
        runs = [run for sweep in sweeps for run in sweep.runs(sweep.chosen_learning_rates())]
        run_all(runs, script, jobs, "runs")


def run_all(
    runs: Sequence[Run], script: Path, jobs: Optional[int], title: str, tolerated: Optional[int] = None
) -> None:
    """
    Run the experiments that have no result yet.

    Args:
        runs: the experiments.
        script: the script that runs an experiment.
        jobs: see `devices.worker_environments`.
        title: title of the progress bar.
        tolerated: an exit code. A run that ends with it has no result, but does not count as failed.

    Raises:
        ValueError: if `jobs` is less than 1, or if the folder of a run is used by another process, holds files of
            another run, or files without a record of their run. Nothing is run then.
        RuntimeError: if a run failed. It is raised after all runs have ended.
        KeyboardInterrupt: if the user interrupts the sweep. The workers are ended first.
    """
    environments = worker_environments(jobs)
    pictures = known_pictures()
    missing = [run for run in runs if not run.is_finished(pictures)]
    for run in missing:
        if (run.folder / LOCK).exists():
            with lock(run.folder):  # refuses if a process that an earlier sweep started is still at work
                pass
    logs = [run.folder / LOG for run in missing]
    failed = []
    with tqdm(desc=title, total=len(runs), initial=len(runs) - len(missing)) as bar:

        def ended(index: int, status: int) -> None:
            bar.update()
            if status not in (0, tolerated):
                failed.append(f"{missing[index].folder}: {last_words(logs[index])}")

        run_each(script, [run.flags for run in missing], logs, environments, ended)
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(runs)} runs failed; see {LOG} in their folders.\n" + "\n".join(failed)
        )


def known_pictures() -> Callable[[BaseExperiment], dict[str, dict[str, str]]]:
    """
    Make a function that identifies the pictures of runs. It loads each data set once.

    Returns:
        A function of the experiment of a run. It returns the fingerprints of the pictures (see
        `identity.pictures_of`).
    """
    load, found = loaded_once(), {}

    def pictures(experiment: BaseExperiment) -> dict[str, dict[str, str]]:
        key = experiment.data, experiment.protocol
        if key not in found:
            found[key] = select(load(experiment)).fingerprints
        return found[key]

    return pictures
