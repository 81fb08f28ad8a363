"""Compare methods on attacked pictures: train them, attack test pictures, print tables, and write plots.

    python examples/robustness.py                 # the embedded world
    python examples/robustness.py --datasets caltech101 --coop_root DIR --model_name_or_path PATH_OR_HUB_ID

It resumes like sweep.py, and passes flags that it does not know to fewshot.py: --test_attacks, --test_attack_steps,
--test_attack_pictures and --max_train_steps replace what is chosen here.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from peft_mudpt.lab.flags import flag, make_parser
from peft_mudpt.lab.report.drawing import FOR_PLOTS
from peft_mudpt.lab.report.panels import plot_report
from peft_mudpt.lab.report.sections import sections
from peft_mudpt.lab.report.table_files import FOR_LATEX
from peft_mudpt.lab.report.tables import markdown_report
from peft_mudpt.lab.report.writing import write_report
from peft_mudpt.lab.schema import read_results
from peft_mudpt.lab.sweep_options import SweepOptions, parse_sweep
from peft_mudpt.lab.sweep_runs import run_sweep
from peft_mudpt.lab.terminal import one_line_errors
from peft_mudpt.optional import require


# The last one of embedding_kl is the test of AdvPT's paper; those of cross_entropy are usual in the field. APGD judges
# them, because it chooses its steps itself.
ATTACKS = ["embedding_kl:4/255", "embedding_kl:8/255", "embedding_kl:16/255:40"]
ATTACKS += ["cross_entropy:1/255", "cross_entropy:4/255", "cross_entropy:8/255"]
ATTACKS += ["apgd_ce:4/255"]
# The first flags of each run. Those that the user gives follow, and the last of equal flags counts.
FLAGS = ["--test_attacks", ",".join(ATTACKS), "--test_attack_steps", "20", "--test_attack_pictures", "1"]
FLAGS += ["--max_train_steps", "300"]


@dataclass(frozen=True)
class RobustnessOptions(SweepOptions):
    protocol: str = flag("few-shot", "Comma-separated, as in sweep.py.")
    datasets: str = flag("noisy", "As in sweep.py. Empty: the data that other flags name, such as --train_dir.")
    methods: str = flag(
        "zero_shot,linear_probe,lora,coop,coop_csc,advpt,advpt_csc,mudpt,mudpt_adversarial",
        "Comma-separated: methods to train and to attack.",
    )
    shots: str = flag("16", "Comma-separated numbers for the few-shot protocol; the others use the largest.")
    learning_rate_factors: str = flag("1", "As in sweep.py.")
    output_dir: str = flag("outputs/robustness", "Folder for the runs; each has a subfolder.")


def main() -> None:
    sweep, jobs = parse_sweep(make_parser(RobustnessOptions, __doc__.partition("\n")[0]))
    require("A report", "report", *FOR_PLOTS, *FOR_LATEX)
    sweep = replace(sweep, flags=[*FLAGS, *sweep.flags])
    if not run_sweep(sweep, Path(__file__).with_name("fewshot.py"), jobs):
        return
    results = read_results(sweep.output_dir)
    print(markdown_report(results, {}, accuracy_only=True), end="")
    write_report(results, plot_report(sections(results)), sweep.output_dir / "report")


if __name__ == "__main__":
    with one_line_errors(ImportError, RuntimeError):
        main()
