"""Measure what the fusion of MuDPT adds: run it without fusion, in each direction and in both, on the same pictures.

    python examples/ladder.py                     # the embedded world
    python examples/ladder.py --coop_root DIR --datasets caltech101 --seeds 1,2,3,4,5

A rung is a form of the fusion: linear or a transformer, from text prompts to vision prompts, the reverse, or both. All
rungs have the same prompts, pictures, batches, steps and tried learning rates. The script prints their accuracies, and
their differences to the rung without fusion with confidence intervals over the seeds. It resumes like sweep.py, and
passes flags that it does not know to fewshot.py.
"""

from dataclasses import dataclass
from pathlib import Path

from peft_mudpt.lab.flags import flag, make_parser
from peft_mudpt.lab.ladder import rows_without_fusion, run_ladder
from peft_mudpt.lab.report.tables import markdown_report
from peft_mudpt.lab.schema import read_results
from peft_mudpt.lab.sweep_options import SweepOptions, parse_sweep
from peft_mudpt.lab.terminal import one_line_errors


@dataclass(frozen=True)
class LadderOptions(SweepOptions):
    methods: str = flag(
        "mudpt,mudpt_anchored", "Comma-separated: methods with prompts in both towers, whose fusion is varied."
    )
    shots: str = flag("16", "Comma-separated numbers for the few-shot protocol; the others use the largest.")
    learning_rate_factors: str = flag(
        "1,3,10", "As in sweep.py: factors of the default learning rate, from which each rung chooses its own."
    )
    output_dir: str = flag("outputs/ladder", "Folder for the runs; each has a subfolder.")


def main() -> None:
    sweep, jobs = parse_sweep(make_parser(LadderOptions, __doc__.partition("\n")[0]))
    if not run_ladder(sweep, Path(__file__).with_name("fewshot.py"), jobs):
        return
    results, references = read_results(sweep.output_dir), rows_without_fusion(sweep)
    print(markdown_report(results, {}, accuracy_only=True, paired=references), end="")


if __name__ == "__main__":
    with one_line_errors(RuntimeError):
        main()
