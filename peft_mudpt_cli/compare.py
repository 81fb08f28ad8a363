"""`peft-mudpt compare`: trains and tests several methods."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path


DESCRIPTION = (
    "Compare methods: train each with every number of shots and seed. Other flags are those of train. A folder of "
    "pictures may stand first."
)
EXAMPLES = """\
examples:
  %(prog)s                                       the whole table of the embedded world, which takes hours
  %(prog)s --dry_run                             tell how many runs have no result yet
  %(prog)s my_pictures --protocol few-shot       your own pictures: short for --train_dir my_pictures
  %(prog)s --methods zero_shot,coop,mudpt --shots 4 --learning_rate_factors 1 --max_train_steps 100

If it is interrupted, give the same command again. `peft-mudpt report OUTPUT_DIR` turns results into tables and plots.
"""


def make_parser() -> ArgumentParser:
    """
    Make the parser of the flags that `train` does not have.

    Returns:
        The parser.
    """
    from peft_mudpt.lab.flags import make_parser
    from peft_mudpt.lab.sweep_options import SweepOptions

    return make_parser(SweepOptions, DESCRIPTION, EXAMPLES)


def main() -> None:
    """Run the comparison that the flags of this process describe (see `peft_mudpt.lab.sweep_runs.run_sweep`)."""
    from peft_mudpt.lab.terminal import one_line_errors

    with one_line_errors(RuntimeError):
        words = sys.argv[1:]
        if words and not words[0].startswith("-"):
            if "--train_dir" in words:
                raise ValueError(f"FOLDER {words[0]} and --train_dir name two folders; give only one.")
            sys.argv[1:] = ["--train_dir", *words]

        from peft_mudpt.lab.sweep_options import SweepOptions, parse_sweep
        from peft_mudpt.lab.sweep_runs import run_sweep

        sweep, jobs = parse_sweep(SweepOptions, DESCRIPTION, EXAMPLES)
        if run_sweep(sweep, Path(__file__).with_name("train.py"), jobs):
            print(f"peft-mudpt report {sweep.output_dir}")
