"""Compare methods: run fewshot.py for every protocol, data set, method, number of shots and seed.

    python examples/sweep.py                      # the whole table of the embedded world
    python examples/sweep.py --protocol few-shot --datasets caltech101,dtd --coop_root DIR --methods coop,mudpt

Flags that it does not know are passed to fewshot.py. If it is interrupted, it ends its runs; give the same command
again: it skips runs that have a result, and resumes the others from their last checkpoints.
`examples/report.py OUTPUT_DIR` turns the results into tables and plots.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from transformers import HfArgumentParser

from peft_mudpt.lab.flags import flag
from peft_mudpt.lab.terminal import one_line_errors


@dataclass
class SweepArguments:
    protocol: str = flag(
        "few-shot,base-to-new", "Comma-separated: few-shot, base-to-new, cross-dataset, domain-generalization."
    )
    datasets: str = flag("", "Comma-separated names as for --dataset of fewshot.py. Empty: the default of fewshot.py.")
    methods: str = flag(
        "zero_shot,linear_probe,lora,coop,ivlp,maple,mudpt_linear,mudpt",
        "Comma-separated: zero_shot, linear_probe, lora, or presets of MuDPTConfig.",
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
    output_dir: str = flag("outputs/lab", "Folder for the runs; each has a subfolder.")
    jobs: int = flag(2, "Number of runs at a time; they share the processor's cores.")


def main() -> None:
    parser = HfArgumentParser(SweepArguments, description=__doc__.partition("\n")[0], allow_abbrev=False)
    arguments, flags = parser.parse_args_into_dataclasses(return_remaining_strings=True)

    from peft_mudpt.lab.sweep import Sweep, run_sweep

    def values(flag: str, kind: type) -> list:
        try:
            return [kind(value.strip()) for value in getattr(arguments, flag).split(",") if value.strip()]
        except ValueError as error:
            raise ValueError(f"--{flag} {getattr(arguments, flag)!r} must be comma-separated numbers.") from error

    sweep = Sweep(
        output_dir=Path(arguments.output_dir),
        protocols=values("protocol", str),
        datasets=values("datasets", str),
        methods=values("methods", str),
        shots=values("shots", int),
        seeds=values("seeds", int),
        learning_rate_factors=values("learning_rate_factors", float),
        flags=flags,
    )
    command = [sys.executable, str(Path(__file__).with_name("fewshot.py"))]
    run_sweep(sweep, command, arguments.jobs)
    print(f"python examples/report.py {arguments.output_dir}")


if __name__ == "__main__":
    with one_line_errors(RuntimeError):
        main()
