"""Test a saved adapter on another folder of labeled pictures, without training.

python examples/evaluate.py outputs/mine other_pictures                   # one folder of pictures per class
python examples/evaluate.py outputs/mine other_pictures --output evaluation.json --confusion_matrix confusion.csv
python examples/evaluate.py user/adapter other_pictures --class_names names.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", metavar="ADAPTER", help="A folder that fewshot.py wrote, or a Hub id.")
    parser.add_argument("folder", metavar="FOLDER", help="A folder with one folder of pictures per class.")
    parser.add_argument("--class_names", help="A text file that names the class folders, as for fewshot.py.")
    parser.add_argument("--classes", help="Names, as for predict.py. Default: those the adapter was trained on.")
    parser.add_argument("--template", help="Text of a class, as for predict.py. Default: the adapter's.")
    parser.add_argument("--model_name_or_path", help="The base CLIP. Default: the one the adapter names.")
    parser.add_argument(
        "--calibrated", action="store_true", help="Give the probabilities of mistakes at the run's temperature."
    )
    parser.add_argument("--output", type=Path, help="Write everything that was found to this JSON file.")
    parser.add_argument("--confusion_matrix", type=Path, help="Write the confusion matrix to this CSV file.")
    parser.add_argument("--overwrite", action="store_true", help="Replace these files if they exist.")
    parser.add_argument("--batch_size", type=int, default=64, help="Number of pictures at a time. Default: 64.")
    parser.add_argument("--num_workers", type=int, help="Processes that read pictures, as for predict.py.")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()

    from accelerate import PartialState

    from peft_mudpt.lab.evaluation_job import evaluate_saved, refuse_existing, write_evaluation
    from peft_mudpt.lab.predicting import split_names
    from peft_mudpt.lab.report.mistakes import evaluation_lines

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


if __name__ == "__main__":
    parse_arguments()  # so that --help and mistakes in flags do not wait for the import of torch

    from peft_mudpt.lab.terminal import one_line_errors

    with one_line_errors():
        main()
