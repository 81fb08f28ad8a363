"""Compare methods: run fewshot.py for every protocol, data set, method, number of shots and seed.

    python examples/sweep.py                      # the whole table of the embedded world
    python examples/sweep.py --protocol few-shot --datasets caltech101,dtd --coop_root DIR --methods coop,mudpt

Flags that it does not know are passed to fewshot.py. If it is interrupted, it ends its runs; give the same command
again: it skips runs that have a result, and resumes the others from their last checkpoints.
`examples/report.py OUTPUT_DIR` turns the results into tables and plots.
"""

from pathlib import Path

from peft_mudpt.lab.flags import make_parser
from peft_mudpt.lab.sweep_options import SweepOptions, parse_sweep
from peft_mudpt.lab.sweep_runs import run_sweep
from peft_mudpt.lab.terminal import one_line_errors


def main() -> None:
    description = __doc__.partition("\n")[0] + " Other flags are passed to fewshot.py."
    sweep, jobs = parse_sweep(make_parser(SweepOptions, description))
    if run_sweep(sweep, Path(__file__).with_name("fewshot.py"), jobs):
        print(f"python examples/report.py {sweep.output_dir}")


if __name__ == "__main__":
    with one_line_errors(RuntimeError):
        main()
