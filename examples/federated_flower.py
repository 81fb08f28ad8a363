"""Run the federation of examples/federated.py by Flower's own processes: over a network, or in its simulation.

    python examples/federated_flower.py                     # a server and four clients, connected on this machine
    python examples/federated_flower.py --simulation        # the same in Flower's simulation (Ray)

It takes the flags of examples/federated.py, starts the processes, and ends them. docs/federated.md shows the commands
for several machines.
"""

from pathlib import Path

from peft_mudpt.lab.flags import parse_flags
from peft_mudpt.lab.terminal import one_line_errors


def main() -> None:
    from peft_mudpt.lab.federated.options import FlowerArguments

    arguments = parse_flags(FlowerArguments, description=__doc__.partition("\n")[0])

    from peft_mudpt.lab.federated.network import run_with_flower
    from peft_mudpt.lab.federated.running import lines, say

    logs = None if arguments.logs is None else Path(arguments.logs)
    for name, value in lines(run_with_flower(arguments.federation, arguments.simulation, arguments.port, logs)):
        say(name, value)


if __name__ == "__main__":
    with one_line_errors(RuntimeError):
        main()
