"""`peft-mudpt predict`: classifies pictures with a saved adapter."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace

from .parser import add_calibrated, parser_of_adapter


BATCH_SIZE = 64
DESCRIPTION = """\
Classify pictures with a saved adapter, among the classes it was trained on or among others.

A picture that cannot be read does not stop the others. It is listed at the end, or has its error in the output, and
the exit code is then 1."""
EXAMPLES = """\
examples:
  %(prog)s outputs/my_pictures picture.jpg another.jpg
  %(prog)s outputs/my_pictures photos/ --output predictions.csv
  %(prog)s outputs/my_pictures photos/ --min_confidence 0.9 --coverage 0.95
  %(prog)s user/adapter picture.jpg --classes "cat,dog,sea lion" --template "{}."

several processes or GPUs:
  accelerate launch -m peft_mudpt predict outputs/my_pictures pictures.parquet --output predictions.parquet
"""


def make_parser() -> ArgumentParser:
    """
    Make the parser of the flags.

    Returns:
        The parser.
    """
    parser = parser_of_adapter(DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="Picture files, and folders of them; or parquet files."
    )
    parser.add_argument("--top", type=int, default=5, help="Number of classes per picture. Default: 5.")
    add_calibrated(parser, "probabilities")
    parser.add_argument(
        "--min_confidence",
        type=float,
        help="Say of each prediction whether its calibrated probability is at least this, from 0 to 1.",
    )
    parser.add_argument(
        "--coverage",
        type=float,
        help="Give the set of classes that holds the right one with this probability, such as 0.9.",
    )
    parser.add_argument(
        "--per_class",
        action="store_true",
        help="The --coverage is to hold for each class that has enough validation pictures, not only on average.",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="Write one row per picture to this file (.csv or .parquet), instead of printing. If the job is "
        "killed, the same command goes on.",
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace an --output of other predictions.")
    parser.add_argument("--image_column", help="Column of pictures in parquet files. Default: the only possible one.")
    parser.add_argument(
        "--batch_size", type=int, default=BATCH_SIZE, help=f"Number of pictures at a time. Default: {BATCH_SIZE}."
    )
    parser.add_argument(
        "--num_workers",
        type=int,
        help="Processes that read pictures, per process with a model. Default: half of the "
        "cores if the model is on a CPU, else all but one; 16 at most.",
    )
    return parser


def main() -> None:
    """
    Predict as the flags of this process say (see `peft_mudpt.lab.printing`).

    Raises:
        SystemExit: with the code 1 if a picture could not be read.
    """
    arguments = make_parser().parse_args()  # first, so that --help and mistakes in flags do not wait for torch
    # set before torch is imported: threads of the model that only wait leave the cores to the workers
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    from peft_mudpt.lab.processes import stopped_by_signals
    from peft_mudpt.lab.terminal import one_line_errors

    with one_line_errors(), stopped_by_signals():
        if run(arguments):
            sys.exit(1)


def run(arguments: Namespace) -> int:
    """
    Predict as flags say.

    Args:
        arguments: what `make_parser` has parsed.

    Returns:
        The number of pictures without an answer.

    Raises:
        ValueError: if a flag, the adapter or the pictures cannot be used.
    """
    from accelerate import Accelerator

    from peft_mudpt.lab.data.class_names import split_names
    from peft_mudpt.lab.data.files import describe_left_aside
    from peft_mudpt.lab.data.unlabeled import find_pictures
    from peft_mudpt.lab.printing import print_predictions, write_predictions
    from peft_mudpt.lab.question import Question
    from peft_mudpt.lab.run_classifier import load_classifier
    from peft_mudpt.lab.saved_calibration import check_calibration, describe_probabilities
    from peft_mudpt.lab.terminal import printable

    question = Question(
        arguments.top, arguments.calibrated, arguments.min_confidence, arguments.coverage, arguments.per_class
    )
    class_names = split_names(arguments.classes)
    pictures, left_aside = find_pictures(arguments.images, arguments.image_column)
    classifier = load_classifier(arguments.adapter, class_names, arguments.template, arguments.model_name_or_path)
    check_calibration(classifier, arguments.adapter, question.flags_of_calibration)
    question.check(classifier)
    if arguments.output is not None and (missing := [path for path in arguments.images if not os.path.exists(path)]):
        raise ValueError(f"{', '.join(missing[:5])} does not exist. Check the path; nothing was written.")
    accelerator = Accelerator()
    classifier.to(accelerator.device)
    if accelerator.is_main_process and classifier.template is None and (texts := classifier.class_texts):
        print(printable(f"{sum(map(len, texts))} texts of {len(texts)} classes, such as {texts[0][0]!r}"))
    if accelerator.is_main_process:
        temperature, asked = question.temperature(classifier), arguments.calibrated
        print(describe_probabilities(classifier, arguments.adapter, temperature, asked), file=sys.stderr)
    if accelerator.is_main_process and left_aside:
        print(printable(f"Files left aside: {describe_left_aside(left_aside)}"), file=sys.stderr)
    if arguments.output is None:
        return print_predictions(classifier, pictures, question, arguments.batch_size, arguments.num_workers)
    return write_predictions(
        classifier,
        pictures,
        arguments.output,
        question,
        arguments.batch_size,
        arguments.num_workers,
        arguments.overwrite,
    )
