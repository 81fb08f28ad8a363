"""Compare methods of detection: run fewshot_detection.py for every data set, method, number of shots and seed.

    python examples/sweep_detection.py                      # the whole table of the embedded world
    python examples/sweep_detection.py --train_dir my_boxes --model_name_or_path IDEA-Research/grounding-dino-tiny

Flags that it does not know are passed to fewshot_detection.py. If it is interrupted, give the same command again.
`examples/report.py OUTPUT_DIR` turns the results into tables and plots.
"""

from pathlib import Path

from peft_mudpt.lab.detection.sweep_options import DetectionSweepOptions
from peft_mudpt.lab.flags import make_parser
from peft_mudpt.lab.sweep_options import parse_sweep
from peft_mudpt.lab.sweep_runs import run_sweep
from peft_mudpt.lab.terminal import one_line_errors


def main() -> None:
    description = __doc__.partition("\n")[0] + " Other flags are passed to fewshot_detection.py."
    sweep, jobs = parse_sweep(make_parser(DetectionSweepOptions, description))
    if run_sweep(sweep, Path(__file__).with_name("fewshot_detection.py"), jobs):
        print(f"python examples/report.py {sweep.output_dir}")


if __name__ == "__main__":
    with one_line_errors(RuntimeError):
        main()
