"""Adapt a detector to a few pictures with boxes, and compare its average precision before and after.

    accelerate launch examples/fewshot_detection.py                         # the embedded world, no network needed
    accelerate launch examples/fewshot_detection.py --train_dir my_boxes --model_name_or_path \
IDEA-Research/grounding-dino-tiny --shots 10

`--train_dir` holds pictures with boxes in COCO's, Pascal VOC's or YOLO's format. `--help` lists the other sources, the
methods and the options of training.
"""

from peft_mudpt.lab.detection.arguments import DetectionArguments
from peft_mudpt.lab.flags import parse_flags
from peft_mudpt.lab.terminal import one_line_errors


def main() -> None:
    arguments = parse_flags(DetectionArguments, description=__doc__.partition("\n")[0])

    from peft_mudpt.lab.run import run

    run(arguments)


if __name__ == "__main__":
    with one_line_errors(ImportError):
        main()
