"""Adapt a CLIP to pictures of several clients, which send adapters to a server and keep their pictures.

    python examples/federated.py                                 # four drawn styles as four clients, no network needed
    python examples/federated.py --domains_dir my_domains --domains hospital_a,hospital_b --method mudpt \
        --model_name_or_path openai/clip-vit-base-patch16

Each folder in `--domains_dir` is a client and holds one folder of pictures per class. The clients run in this process,
one after another. docs/federated.md shows how to run the same federation over a network.
"""

from peft_mudpt.lab.flags import parse_flags
from peft_mudpt.lab.terminal import one_line_errors


def main() -> None:
    from peft_mudpt.lab.federated.options import FederatedArguments

    arguments = parse_flags(FederatedArguments, description=__doc__.partition("\n")[0])

    from peft_mudpt.lab.federated.running import run

    run(arguments)


if __name__ == "__main__":
    with one_line_errors(TimeoutError):
        main()
