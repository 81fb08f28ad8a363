"""Compare federated methods with each other, with clients alone, and with training on all pictures together.

    python examples/sweep_federated.py                         # four drawn styles as four clients
    python examples/sweep_federated.py --domains_dir my_domains --domains hospital_a,hospital_b \
        --model_name_or_path openai/clip-vit-base-patch16

It runs federated.py for each method, setting and seed, prints tables, and writes them with a plot to `report/`.
Flags that it does not know are passed to federated.py. If it is interrupted, give the same command again.
"""

from pathlib import Path

from peft_mudpt.lab.flags import make_parser, parse_some
from peft_mudpt.lab.terminal import one_line_errors
from peft_mudpt.optional import require


def main() -> None:
    from peft_mudpt.lab.federated.comparison import Comparison, ComparisonOptions
    from peft_mudpt.lab.federated.options import FederatedArguments
    from peft_mudpt.lab.federated.report import markdown, write_report
    from peft_mudpt.lab.report.drawing import FOR_PLOTS

    description = __doc__.partition("\n")[0]
    options, flags = parse_some(make_parser(ComparisonOptions, description), others=FederatedArguments)
    comparison = Comparison(options, flags)
    require("A report", "report", *FOR_PLOTS)
    if not comparison.execute(Path(__file__).with_name("federated.py")):
        return
    results = comparison.results()
    print(markdown(results), end="")
    write_report(results, Path(options.output_dir) / "report")


if __name__ == "__main__":
    with one_line_errors(RuntimeError):
        main()
