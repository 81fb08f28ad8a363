"""`peft-mudpt evaluate`: tests a saved adapter on other labeled pictures."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from .parser import add_calibrated, parse_and_run, parser_of_adapter


DESCRIPTION = "Test a saved adapter on another folder of labeled pictures, without training."
EXAMPLES = """\
examples:
  %(prog)s outputs/my_pictures other_pictures              one folder of pictures per class
  %(prog)s outputs/my_pictures other_pictures --output evaluation.json --confusion_matrix confusion.csv
  %(prog)s user/adapter other_pictures --class_names names.txt
"""


def make_parser() -> ArgumentParser:
    """
    Make the parser of the flags.

    Returns:
        The parser.
    """
    parser = parser_of_adapter(DESCRIPTION, EXAMPLES)
    parser.add_argument("folder", metavar="FOLDER", help="A folder with one folder of pictures per class.")
    parser.add_argument("--class_names", metavar="FILE", help="A file that names the class folders, as for `train`.")
    add_calibrated(parser, "the probabilities of mistakes")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="Write everything that was found to this JSON file."
    )
    parser.add_argument(
        "--confusion_matrix", type=Path, metavar="FILE", help="Write the confusion matrix to this CSV file."
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace these files if they exist.")
    parser.add_argument("--batch_size", type=int, default=64, help="Number of pictures at a time. Default: 64.")
    parser.add_argument("--num_workers", type=int, help="Processes that read pictures, as for `predict`.")
    return parser


def main() -> None:
    """Test as the flags of this process say (see `peft_mudpt.lab.evaluation_job.evaluate_saved`)."""
    parse_and_run(make_parser(), run)


def run(arguments: Namespace) -> None:
    """
    Test as flags say.

    Args:
        arguments: what `make_parser` has parsed.

    Raises:
        ValueError: if a flag, the adapter or the pictures cannot be used.
    """
    from accelerate import PartialState

    from peft_mudpt.lab.data.class_names import split_names
    from peft_mudpt.lab.evaluation_job import evaluate_saved
    from peft_mudpt.lab.report.evaluation import evaluation_lines, refuse_existing, write_evaluation

    output, confusion_matrix = arguments.output, arguments.confusion_matrix
    if not arguments.overwrite:
        refuse_existing({"--output": output, "--confusion_matrix": confusion_matrix})
    found = evaluate_saved(
        arguments.adapter,
        arguments.folder,
        split_names(arguments.classes),
        arguments.template,
        arguments.model_name_or_path,
        arguments.class_names,
        arguments.calibrated,
        arguments.batch_size,
        arguments.num_workers,
    )
    if PartialState().is_main_process:
        print(*evaluation_lines(found), sep="\n")
        write_evaluation(found, output, confusion_matrix)
