"""`peft-mudpt compare`: trains and tests several methods."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import HfArgumentParser


DESCRIPTION = (
    "Compare methods: train each with every number of shots and seed. Other flags are those of train. A folder of "
    "pictures may stand first."
)
USAGE = "%(prog)s [FOLDER] [flags]"
EXAMPLES = """\
examples:
  %(prog)s                                       the whole table of the embedded world, which takes hours
  %(prog)s --dry_run                             tell how many runs have no result yet
  %(prog)s my_pictures --protocol few-shot       your own pictures: short for --train_dir my_pictures
  %(prog)s --methods zero_shot,coop,mudpt --shots 4 --learning_rate_factors 1 --max_train_steps 100

If it is interrupted, give the same command again. `peft-mudpt report OUTPUT_DIR` turns results into tables and plots.
"""


def make_parser() -> HfArgumentParser:
    """
    Make the parser of the flags that `train` does not have.

    Returns:
        The parser.
    """
    from peft_mudpt.lab.flags import make_parser
    from peft_mudpt.lab.sweep_options import SweepOptions

    return make_parser(SweepOptions, DESCRIPTION, EXAMPLES, USAGE)


def _parser_of_the_folder() -> ArgumentParser:
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--train_dir", "--train-dir")
    return parser


def main() -> None:
    """Run the comparison that the flags of this process describe (see `peft_mudpt.lab.sweep_runs.run_sweep`)."""
    from peft_mudpt.lab.terminal import one_line_errors

    with one_line_errors(RuntimeError):
        if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
            folder, *words = sys.argv[1:]
            other = _parser_of_the_folder().parse_known_args(words)[0].train_dir
            if other not in (None, folder):
                raise ValueError(f"FOLDER {folder} and --train_dir {other} name two folders; give only one.")
            sys.argv[1:] = ["--train_dir", folder, *words]

        from peft_mudpt.lab.sweep_options import parse_sweep
        from peft_mudpt.lab.sweep_runs import run_sweep

        sweep, jobs = parse_sweep(make_parser())
        if run_sweep(sweep, Path(__file__).with_name("train.py"), jobs):
            print(f"peft-mudpt report {sweep.output_dir}")
