"""`peft-mudpt train`: adapts a CLIP to pictures."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import HfArgumentParser

DESCRIPTION = "Adapt a CLIP to a few pictures of each class, and compare its accuracy before and after."
USAGE = "%(prog)s [FOLDER] [flags]"
EXAMPLES = """\
examples:
  %(prog)s                                       the embedded world of drawn shapes; no pictures, no network needed
  %(prog)s my_pictures                           one folder of pictures per class, named after the class
  %(prog)s my_pictures --model_name_or_path google/siglip-base-patch16-224 --method lora --output_dir outputs/lora
  %(prog)s --dataset_name user/pictures          a data set of the Hub

several processes or GPUs:
  accelerate launch -m peft_mudpt train my_pictures
"""
NEXT = {
    "Classify pictures:": "peft-mudpt predict {} PICTURE_OR_FOLDER",
    "See each class and the mistakes, as a page:": "peft-mudpt report {} --html",
    "Try it in a browser:": "peft-mudpt demo {}",
}


def make_parser() -> HfArgumentParser:
    """
    Make the parser of the flags, which are those of `examples/fewshot.py`, and of the folder.

    Returns:
        The parser.
    """
    from peft_mudpt.lab import flags
    from peft_mudpt.lab.arguments import Arguments
    from peft_mudpt.lab.backbone import FOR_PHOTOGRAPHS

    parser = flags.make_parser(Arguments, DESCRIPTION, EXAMPLES, USAGE)
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help=f"Pictures: short for --train_dir FOLDER, which implies --model_name_or_path {FOR_PHOTOGRAPHS} and "
        "--output_dir outputs/FOLDER. Flags replace what it stands for.",
    )
    return parser


def main() -> None:
    """Train as the flags of this process say, and print what can be done with the result."""
    folder = shlex.quote(train())

    from accelerate import PartialState

    if PartialState().is_main_process:
        for words, command in NEXT.items():
            print(f"\n{words}\n  {command.format(folder)}", file=sys.stderr)


def train() -> str:
    """Train as the flags of this process say (see `peft_mudpt.lab.run.run`). Returns the folder of the run."""
    from peft_mudpt.lab.flags import parse
    from peft_mudpt.lab.terminal import one_line_errors

    with one_line_errors():
        parser = make_parser()
        given = sys.argv[1:]
        folder = parser.parse_known_args(given)[0].folder
        arguments = parse(parser, given, weaker=() if folder is None else ["--train_dir", folder])
        if folder is not None and arguments.train_dir != folder:
            raise ValueError(f"FOLDER {folder} and --train_dir {arguments.train_dir} name two folders; give only one.")

        from peft_mudpt.lab.run import run

        run(arguments)
        return arguments.output_dir


if __name__ == "__main__":  # a worker of `peft-mudpt compare` runs this file, or on a Ray cluster a copy of it
    train()
