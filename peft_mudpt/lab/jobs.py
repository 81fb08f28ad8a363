"""How the runs of a comparison are divided: the options, and the engine that runs them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Optional

from ..optional import install
from .devices import JOBS_ON_CPU, worker_environments
from .flags import OptionalCount, Options, at_least, flag
from .processes import run_each


LOCAL, RAY = "local", "ray"


@dataclass(frozen=True)
class JobOptions(Options):
    """The options of every script that runs others. `--help` describes each."""

    title: ClassVar[str] = "how runs are divided"

    jobs: OptionalCount = flag(
        None,
        "Number of runs at a time on each GPU or, without one, on the machine. None: 1 on each GPU, or "
        f"{JOBS_ON_CPU} without one.",
    )
    engine: str = flag(
        LOCAL,
        f"{LOCAL}: processes of this machine. {RAY}: tasks of a Ray cluster (`{install('cluster')}`), the "
        "one that RAY_ADDRESS names or that runs here, or else one of this machine alone.",
        choices=(LOCAL, RAY),
    )
    cpus_per_run: OptionalCount = flag(None, f"Cores of a run, with --engine {RAY}. None: 1.")
    gpus_per_run: Annotated[Optional[float], at_least(0)] = flag(
        None, f"GPUs of a run, with --engine {RAY}; may be a part. None: 1 if the cluster has GPUs, else 0."
    )
    only: Optional[str] = flag(
        None, "i/n: do only the i-th of n shares of the runs, such as 3/20 in the third task of a Slurm array."
    )
    dry_run: bool = flag(
        False, "Print how many runs have no result yet, the first of them, and how long they will take; run nothing."
    )

    def __post_init__(self):
        super().__post_init__()
        given = [name for name in ("cpus_per_run", "gpus_per_run") if getattr(self, name) is not None]
        if self.engine == LOCAL and given:
            raise ValueError(f"--{given[0]} needs --engine {RAY}; on this machine, give --jobs.")
        if self.engine == RAY and self.jobs is not None:
            raise ValueError(f"--jobs {self.jobs}: a cluster runs as many as fit; give --cpus_per_run instead.")
        self.share(())

    def share(self, runs: Sequence[Any]) -> list[Any]:
        """
        Choose the runs that this process does.

        Args:
            runs: all runs.

        Returns:
            All of them, or every n-th if `only` is given. The shares are disjoint, and together they are all.

        Raises:
            ValueError: if `only` is no share.
        """
        if self.only is None:
            return list(runs)
        found = re.fullmatch(r"(\d+)/(\d+)", self.only)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"--only {self.only} must be i/n, with i from 1 to n, such as 3/20.")
        return list(runs[int(found[1]) - 1 :: int(found[2])])

    @property
    def at_a_time(self) -> Optional[int]:
        """The number of runs at a time; None if the cluster decides."""
        return len(worker_environments(self.jobs)) if self.engine == LOCAL else None

    def run_each(
        self, script: Path, flags: Sequence[list[str]], logs: Sequence[Path], ended: Callable[[int, int], None]
    ) -> None:
        """
        Run a script several times.

        Args:
            script: path of the script.
            flags: the command-line arguments of each run.
            logs: the log of each run, to which its output is appended.
            ended: called with the index and the exit status of each run that has ended.

        Raises:
            ImportError: if the engine is not installed.
            KeyboardInterrupt: if the user interrupts this process. The runs are ended first.
        """
        if self.engine == LOCAL:
            run_each(script, flags, logs, worker_environments(self.jobs), ended)
            return
        from .ray_engine import run_each_on_ray

        run_each_on_ray(script, flags, logs, ended, self.cpus_per_run or 1, self.gpus_per_run)
