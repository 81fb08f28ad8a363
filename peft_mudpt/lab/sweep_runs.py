"""Runs the experiments of sweeps that have no result yet, several at a time, in processes that stay."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Optional

from tqdm import tqdm

from .experiment import select
from .jobs import JobOptions
from .plan import BaseExperiment
from .processes import last_words
from .run_folder import is_in_use
from .schema import read_result
from .sweep import Run, Sweep, loaded_once
from .terminal import DIVERGED, IN_USE, printable


LOG = "log.txt"
NO_RESULT = ".no_result"  # a file in the folder of a run that is done, but has no result
LISTED = 5  # folders of runs that are printed; more would hide what a user wants to know, their number and the time
LOOK = 1.0  # seconds between two looks at the runs of other processes


def run_sweep(sweep: Sweep, script: Path, jobs: JobOptions) -> bool:
    """
    Run all experiments of a sweep that have no result yet: the search for learning rates, then the comparison.

    Several processes may run the same sweep, also on several machines that share its folder: each run is done by one
    of them.

    Args:
        sweep: the comparison.
        script: the script that runs an experiment.
        jobs: how the runs are divided.

    Returns:
        True if all runs of the comparison have a result.

    Raises:
        ValueError: as in `Sweep.check_data` and in `run_all`.
        RuntimeError: if a run failed (see `run_all`), or if a search has no result.
    """
    return run_sweeps([sweep], script, jobs)


def run_sweeps(sweeps: Sequence[Sweep], script: Path, jobs: JobOptions) -> bool:
    """
    Run several sweeps that differ only in their methods and the options of these.

    Args:
        sweeps: the comparisons, on the same data.
        script: the script that runs an experiment.
        jobs: how the runs are divided.

    Returns:
        As `run_sweep`.

    Raises:
        ValueError: as in `run_sweep`.
        RuntimeError: as in `run_sweep`.
    """
    searches = [run for sweep in sweeps for run in sweep.search_runs()]
    if jobs.dry_run:
        print_runs([*searches, *(run for sweep in sweeps for run in sweep.runs({}))], jobs)
        return False
    for remark in sweeps[0].check_data():
        print("note:", printable(remark))
    if searches and not run_all(searches, script, jobs, "learning rates", tolerated=DIVERGED):
        print("note: other shares of the search are not finished; after them, give the same command")
        return False
    runs = [run for sweep in sweeps for run in sweep.runs(sweep.chosen_learning_rates())]
    return run_all(runs, script, jobs, "runs")


def run_all(
    runs: Sequence[Run],
    script: Path,
    jobs: JobOptions,
    title: str = "runs",
    tolerated: Optional[int] = None,
) -> bool:
    """
    Run the experiments that have no result yet. Those that another process is working on are left to it.

    Args:
        runs: the experiments.
        script: the script that runs an experiment.
        jobs: how the runs are divided.
        title: title of the progress bar.
        tolerated: an exit code. A run that ends with it has no result, but does not count as failed, and is not run
            again.

    Returns:
        True if all runs, also those of other shares, are done.

    Raises:
        ValueError: if the folder of a run holds files of another run, or files without a record of their run. Nothing
            is run then.
        RuntimeError: if a run failed. It is raised after all runs have ended.
        KeyboardInterrupt: if the user interrupts the sweep. The workers are ended first.
    """
    pictures = known_pictures()

    def is_done(run: Run) -> bool:
        return run.is_finished(pictures) or (tolerated is not None and (run.folder / NO_RESULT).exists())

    missing = [run for run in runs if not is_done(run)]
    share = jobs.share(runs)
    due = [run for run in share if run in missing]
    failed: list[str] = []
    with tqdm(desc=title, total=len(share), initial=len(share) - len(due)) as bar:
        while due:
            free = [run for run in due if not is_in_use(run.folder)]
            elsewhere = [run for run in due if run not in free]
            logs = [run.folder / LOG for run in free]

            def ended(index: int, status: int, free=free, elsewhere=elsewhere, logs=logs) -> None:
                run = free[index]
                if status == IN_USE:
                    elsewhere.append(run)
                    return
                bar.update()
                if status == tolerated:
                    (run.folder / NO_RESULT).touch()
                elif status:
                    failed.append(f"{run.folder}: {last_words(logs[index])}")

            jobs.run_each(script, [run.flags for run in free], logs, ended)
            while any(is_in_use(run.folder) for run in elsewhere):
                bar.set_postfix_str(f"{len(elsewhere)} in other processes")
                time.sleep(LOOK)
            due = [run for run in elsewhere if not is_done(run)]  # its process has failed or was killed
            bar.update(len(elsewhere) - len(due))
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(runs)} runs failed; see {LOG} in their folders.\n" + "\n".join(failed)
        )
    return all(run in share or is_done(run) for run in missing)


def print_runs(runs: Sequence[Run], jobs: JobOptions) -> None:
    """
    Print the first folders of the runs that have no result yet, their number, and how long they will take, as far as
    results of the same method tell.

    Args:
        runs: the experiments.
        jobs: how the runs are divided.
    """
    pictures = known_pictures()
    share = jobs.share(runs)
    due = [run for run in share if not run.is_finished(pictures)]
    for run in due[:LISTED]:
        print(printable(str(run.folder)))
    if len(due) > LISTED:
        print(f"... and {len(due) - LISTED} more")
    print(f"{len(due)} of {len(share)} runs have no result yet.")
    if not due:
        return
    seconds: dict[str, list[float]] = defaultdict(list)
    for run in share:
        if (result := read_result(run.folder)) is not None:
            seconds[run.arguments().method].append(result["seconds"]["total"])
    known = [run.arguments().method for run in due if run.arguments().method in seconds]
    if not known:
        print("None of their methods has a result, so that it is not known how long they will take.")
        return
    total = sum(mean(seconds[method]) for method in known)
    at_a_time = f"; {jobs.at_a_time} at a time: {duration(total / jobs.at_a_time)}" if jobs.at_a_time else ""
    print(f"{len(known)} of them take {duration(total)} one after another, as earlier runs did{at_a_time}.")


def duration(seconds: float) -> str:
    """
    Write a duration.

    Args:
        seconds: the duration in seconds.

    Returns:
        Words such as "1 h 05 min" or, below an hour, "5 min 10 s".
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


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
