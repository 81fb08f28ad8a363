"""Adapt a CLIP to a few pictures of each class, and see what it gained.

    accelerate launch examples/fewshot.py                                   # the embedded world, no network needed
    accelerate launch examples/fewshot.py --train_dir my_pictures --model_name_or_path openai/clip-vit-base-patch16

`--train_dir` holds one folder of pictures per class, named after it. What is not drawn for training is the test set.
`--help` names the other sources of pictures, the protocols and the methods.
"""

from transformers import HfArgumentParser

from peft_mudpt.fewshot.arguments import Arguments


def main() -> None:
    arguments = HfArgumentParser(Arguments, description=__doc__, allow_abbrev=False).parse_args_into_dataclasses()[0]

    from peft_mudpt.fewshot.experiment import run

    run(arguments)


if __name__ == "__main__":
    main()
