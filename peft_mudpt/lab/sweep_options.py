"""The flags of examples/sweep.py, which other scripts that run a comparison share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import HfArgumentParser

from .arguments import Arguments, RunArguments
from .flags import flag, parse_some
from .jobs import JobOptions
from .sweep import Sweep


@dataclass(frozen=True)
class SweepOptions(JobOptions):
    """What a sweep compares, and how. `--help` describes each."""

    title: ClassVar[str] = "what is compared"
    kind: ClassVar[type[RunArguments]] = Arguments  # the flags of the script that each run calls

    protocol: str = flag(
        "few-shot,base-to-new", "Comma-separated: few-shot, base-to-new, cross-dataset, domain-generalization."
    )
    datasets: str = flag("", "Comma-separated names as for --dataset of a single run. Empty: its default.")
    methods: str = flag(
        "zero_shot,tip_adapter,linear_probe,lora,coop,cocoop,tcp,ivlp,promptsrc,maple,mudpt_linear,mudpt,mudpt_deep,"
        "mudpt_anchored",
        "Comma-separated names as for --method of a single run.",
    )
    shots: str = flag(
        "1,4,16", "Comma-separated numbers for the few-shot protocol; the other protocols use the largest."
    )
    seeds: str = flag("1,2,3", "Comma-separated seeds of the draw, the initial weights and the batches.")
    learning_rate_factors: str = flag(
        "1,3,10,30",
        "Comma-separated factors of each method's default learning rate. Each is tried with the first seed and the "
        "most shots. The rate with the best validation accuracy is used for the whole protocol and data set. "
        "One factor: no search.",
    )
    output_dir: str = flag("outputs/lab", "Folder for the runs; each has a subfolder.", metavar="FOLDER")

    def sweep(self, flags: list[str]) -> Sweep:
        """
        Plan the sweep.

        Args:
            flags: further command-line arguments of the script, the same for every run.

        Returns:
            The sweep.

        Raises:
            ValueError: if an option cannot be used; the message names it.
        """
        return Sweep(
            output_dir=Path(self.output_dir),
            protocols=self._values("protocol", str),
            datasets=self._values("datasets", str),
            methods=self._values("methods", str),
            shots=self._values("shots", int),
            seeds=self._values("seeds", int),
            learning_rate_factors=self._values("learning_rate_factors", float),
            flags=flags,
            kind=self.kind,
        )

    def _values(self, name: str, kind: type) -> list[Any]:
        try:
            return [kind(value.strip()) for value in getattr(self, name).split(",") if value.strip()]
        except ValueError as error:
            raise ValueError(f"--{name} {getattr(self, name)!r} must be comma-separated numbers.") from error


def parse_sweep(parser: HfArgumentParser) -> tuple[Sweep, JobOptions]:
    """
    Parse the command line of a script that runs a comparison.

    Args:
        parser: the parser of `SweepOptions` or of a subclass (see `flags.make_parser`). Flags that it does not know
            are passed to the script that each run calls.

    Returns:
        The sweep, and how its runs are divided.

    Raises:
        ValueError: if an option cannot be used; the message names it.
    """
    (kind,) = parser.dataclass_types
    options, flags = parse_some(parser, others=kind.kind)
    return options.sweep(flags), options.part(JobOptions)
