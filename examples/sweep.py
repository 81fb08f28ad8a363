"""Compare methods: fewshot.py for every protocol, data set, method, number of shots and seed. Passes its flags on.

    python examples/sweep.py                      # the whole table of the embedded world
    python examples/sweep.py --protocol few-shot --datasets caltech101,dtd --coop_root DIR --methods coop,mudpt

What has a result is skipped, and what was killed goes on from its last checkpoint: give the same command again.
`examples/report.py OUTPUT_DIR` makes tables and pictures of the results.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from transformers import HfArgumentParser

from peft_mudpt.lab.flags import flag


@dataclass
class SweepArguments:
    protocol: str = flag(
        "few-shot,base-to-new", "Between commas: few-shot, base-to-new, cross-dataset, domain-generalization."
    )
    datasets: str = flag("", "As for --dataset of fewshot.py, between commas. Empty: its own.")
    methods: str = flag(
        "zero_shot,linear_probe,lora,coop,ivlp,maple,mudpt_linear,mudpt",
        "zero_shot, linear_probe, lora, or presets of MuDPTConfig.",
    )
    shots: str = flag("1,4,16", "Of the few-shot protocol; the other protocols take the largest number.")
    seeds: str = flag("1,2,3", "Of draws, weights and batches.")
    learning_rate_factors: str = flag(
        "1,3,10,30",
        "Each method's own learning rate times these is tried with the first seed and the most shots; the best on the "
        "validation pictures is used throughout the protocol and data set. One factor: no search.",
    )
    output_dir: str = flag("outputs/lab", "Where runs are kept, a folder for each.")
    jobs: int = flag(2, "Runs at a time. The processor's cores are shared out among them.")


def main() -> None:
    parser = HfArgumentParser(SweepArguments, description=__doc__.partition("\n")[0], allow_abbrev=False)
    arguments, flags = parser.parse_args_into_dataclasses(return_remaining_strings=True)

    from peft_mudpt.lab.sweep import NO_NUMBER, Sweep, run_all

    def items(flag: str, kind: type) -> list:
        try:
            return [kind(item.strip()) for item in getattr(arguments, flag).split(",") if item.strip()]
        except ValueError as error:
            raise ValueError(f"--{flag} {getattr(arguments, flag)!r} must be numbers between commas.") from error

    sweep = Sweep(
        output_dir=Path(arguments.output_dir),
        protocols=items("protocol", str),
        datasets=items("datasets", str),
        methods=items("methods", str),
        shots=items("shots", int),
        seeds=items("seeds", int),
        learning_rate_factors=items("learning_rate_factors", float),
        flags=flags,
    )
    command = [sys.executable, str(Path(__file__).with_name("fewshot.py"))]
    run_all(sweep.search_runs(), command, arguments.jobs, "learning rates", tolerated=NO_NUMBER)
    run_all(sweep.runs(sweep.chosen_learning_rates()), command, arguments.jobs, "runs")
    print(f"python examples/report.py {arguments.output_dir}")


if __name__ == "__main__":
    main()
