"""Measure what training and inference cost, compared with padded texts and plain models, and print the ratios.

python examples/benchmark.py --models tiny --classes 10,100      # takes a minute
python examples/benchmark.py --picture benchmark.png             # everything; takes about an hour on 2 CPU cores
python examples/benchmark.py --precision bfloat16 --compile      # for a GPU
python examples/benchmark.py --models none --detectors grounding_dino_tiny --classes 5 --memory_classes none
python examples/benchmark.py --models none --lab                 # the lab in the embedded world

Each row is measured in a process of its own. What does not fit into the free memory is left out, by an estimate.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from peft_mudpt.lab.flags import parse_flags
from peft_mudpt.lab.terminal import one_line_errors


@dataclass
class BenchmarkArguments:
    models: str = field(default="tiny,vit_b16", metadata={"help": "Comma-separated: tiny, vit_b16; or 'none'."})
    detectors: str = field(
        default="none", metadata={"help": "Comma-separated: tiny, grounding_dino_tiny; or 'none'. Never compiled."}
    )
    picture_size: int = field(
        default=240, metadata={"help": "Height in pixels of the detectors' pictures; their width is 5/3 of it."}
    )
    classes: str = field(default="10,100,400,1000", metadata={"help": "Comma-separated numbers of classes."})
    memory_classes: str = field(
        default="100,400,1000,4000", metadata={"help": "Numbers of classes at which memory is measured, or 'none'."}
    )
    adapters: str = field(
        default="mudpt", metadata={"help": "Comma-separated presets; also mudpt_from_layer_6, which starts late."}
    )
    batch_sizes: str = field(default="4,32", metadata={"help": "Images per batch."})
    tasks: str = field(default="training,inference", metadata={"help": "training, inference, both, or 'none'."})
    bank_pictures: str = field(
        default="none",
        metadata={"help": "Numbers of pictures of which a bank of attacked pictures is built, or 'none'."},
    )
    precision: str = field(
        default="float32", metadata={"help": "float32, or bfloat16 autocast.", "choices": ["float32", "bfloat16"]}
    )
    compile: bool = field(default=False, metadata={"help": "Run ours and plain CLIP through torch.compile."})
    seconds: float = field(
        default=10.0, metadata={"help": "Seconds of timing per way and case; at least three steps."}
    )
    minutes: float = field(
        default=20.0, metadata={"help": "Most minutes that a row may take; a longer one is stopped, and says so."}
    )
    lab: bool = field(
        default=False,
        metadata={"help": "Also measure training, testing, prediction and a sweep in the embedded world."},
    )
    json: Optional[str] = field(default=None, metadata={"help": "File to which every measurement is written."})
    picture: Optional[str] = field(default=None, metadata={"help": "PNG file to which the measurements are plotted."})


def parse() -> BenchmarkArguments:
    return parse_flags(BenchmarkArguments, description=__doc__.partition("\n")[0])


def names(text: str) -> list[str]:
    return [] if text == "none" else text.split(",")


def numbers(text: str) -> list[int]:
    return [int(number) for number in names(text)]


def main() -> None:
    arguments = parse()

    from peft_mudpt.lab.cost.plots import plot
    from peft_mudpt.lab.cost.running import run
    from peft_mudpt.lab.cost.tables import markdown
    from peft_mudpt.lab.report.drawing import FOR_PLOTS
    from peft_mudpt.optional import require

    if arguments.picture:
        require("--picture", "report", *FOR_PLOTS)
    result = run(
        models=names(arguments.models),
        tasks=names(arguments.tasks),
        classes=numbers(arguments.classes),
        memory_classes=numbers(arguments.memory_classes),
        batch_sizes=numbers(arguments.batch_sizes),
        autocast=arguments.precision == "bfloat16",
        compiled=arguments.compile,
        seconds_per_way=arguments.seconds,
        adapters=arguments.adapters.split(","),
        bank_pictures=numbers(arguments.bank_pictures),
        detectors=names(arguments.detectors),
        picture_size=arguments.picture_size,
        lab_scripts=Path(__file__).parent if arguments.lab else None,
        minutes_per_row=arguments.minutes,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
    if arguments.picture:
        plot(result, Path(arguments.picture))
    print(markdown(result), end="")


if __name__ == "__main__":
    with one_line_errors():
        main()
