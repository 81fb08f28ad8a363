"""Adapt a CLIP to a few pictures of each class, and compare its accuracy before and after.

    accelerate launch examples/fewshot.py                                   # the embedded world, no network needed
    accelerate launch examples/fewshot.py --train_dir my_pictures --model_name_or_path openai/clip-vit-base-patch16

`--train_dir` holds one folder of pictures per class, named after the class. `--help` lists the other sources of
pictures, the protocols and the methods.
"""

from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.flags import parse_flags
from peft_mudpt.lab.terminal import one_line_errors


def main() -> None:
    arguments = parse_flags(Arguments, description=__doc__.partition("\n")[0])

    from peft_mudpt.lab.run import run

    run(arguments)


if __name__ == "__main__":
    with one_line_errors():
        main()
