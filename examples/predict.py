"""Classify pictures with a saved adapter, among the classes it was trained on or among others.

A picture that cannot be read does not stop the others. It is listed at the end, or has its error in the output, and
the exit code is then 1.

python examples/predict.py outputs/fewshot picture.jpg another.jpg
python examples/predict.py user/adapter picture.jpg --classes "cat,dog,sea lion" --template "{}."
python examples/predict.py outputs/fewshot photos/ --output predictions.csv
accelerate launch examples/predict.py outputs/fewshot pictures.parquet --output predictions.parquet
"""

import argparse
import os
import sys


BATCH_SIZE = 64


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", metavar="ADAPTER", help="A folder that fewshot.py wrote, or a Hub id.")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="Picture files, and folders of them; or parquet files."
    )
    parser.add_argument(
        "--classes",
        help="Names, separated by commas; a name with a comma in double quotes: 'dog,\"cat, wild\"'. Default: those "
        "the adapter was trained on.",
    )
    parser.add_argument(
        "--template",
        help="Text of a class that follows the text prompts, with {} for the name. Default: those of the adapter.",
    )
    parser.add_argument("--model_name_or_path", help="The base CLIP. Default: the one the adapter names.")
    parser.add_argument("--top", type=int, default=5, help="Number of classes per picture. Default: 5.")
    parser.add_argument(
        "--calibrated",
        action="store_true",
        help="Divide the logits by the temperature of the run's validation pictures.",
    )
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
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()

    from accelerate import Accelerator

    from peft_mudpt.lab.data.files import describe_left_aside
    from peft_mudpt.lab.data.unlabeled import find_pictures
    from peft_mudpt.lab.predicting import load_classifier, split_names
    from peft_mudpt.lab.question import Question
    from peft_mudpt.lab.terminal import printable

    question = Question(
        arguments.top, arguments.calibrated, arguments.min_confidence, arguments.coverage, arguments.per_class
    )
    class_names = split_names(arguments.classes)
    pictures, left_aside = find_pictures(arguments.images, arguments.image_column)
    classifier = load_classifier(arguments.adapter, class_names, arguments.template, arguments.model_name_or_path)
    question.check(classifier)
    if arguments.output is not None and (missing := [path for path in arguments.images if not os.path.exists(path)]):
        raise ValueError(f"{', '.join(missing[:5])} does not exist. Check the path; nothing was written.")
    accelerator = Accelerator()
    classifier.to(accelerator.device)
    if accelerator.is_main_process and classifier.template is None and (texts := classifier.class_texts):
        print(printable(f"{sum(map(len, texts))} texts of {len(texts)} classes, such as {texts[0][0]!r}"))
    if accelerator.is_main_process and left_aside:
        print(printable(f"Files left aside: {describe_left_aside(left_aside)}"), file=sys.stderr)
    (print_predictions if arguments.output is None else write_predictions)(classifier, pictures, question, arguments)


def print_predictions(classifier, pictures, question, arguments: argparse.Namespace) -> None:
    from accelerate import Accelerator

    from peft_mudpt.classifier.batches import in_ranges
    from peft_mudpt.lab.data.workers import choose_workers
    from peft_mudpt.lab.predicting import classify, join_names
    from peft_mudpt.lab.terminal import printable

    accelerator = Accelerator()
    if accelerator.num_processes > 1:
        raise ValueError(f"{accelerator.num_processes} processes cannot print in order. Give --output.")
    unreadable = []
    batches = in_ranges(0, len(pictures), arguments.batch_size)
    num_workers = choose_workers(arguments.num_workers, accelerator.device.type)
    for predictions in classify(classifier, pictures, question, batches, num_workers):
        for picture, error, answer in predictions:
            if answer is None:
                unreadable.append(printable(error))
                continue
            print(printable(picture))
            for name, probability in answer.best:
                print(f"  {100 * probability:5.1f} %  {printable(name)}")
            if answer.is_confident is False:
                print(f"  not confident: below {100 * arguments.min_confidence:g} %")
            if answer.classes is not None:
                found = printable(join_names(answer.classes)) or "no class is probable enough"
                print(f"  set at {100 * arguments.coverage:g} %: {found}")
    if unreadable:
        print(f"{len(unreadable)} of {len(pictures)} pictures have no answer:", file=sys.stderr)
        print(*unreadable, sep="\n", file=sys.stderr)
        sys.exit(1)


def write_predictions(classifier, pictures, question, arguments: argparse.Namespace) -> None:
    from peft_mudpt.lab.prediction_job import predict_to_file

    written = predict_to_file(
        classifier,
        pictures,
        arguments.output,
        question,
        arguments.batch_size,
        arguments.num_workers,
        arguments.overwrite,
    )
    if written is None:  # the main process says it
        return
    already = " already" if written.before else ""
    print(f"{arguments.output} holds the predictions of all {len(pictures):,} pictures{already}")
    if written.errors:
        have = "has" if written.errors == 1 else "have"
        print(f"{written.errors:,} of them {have} no answer; the column error says why", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    parse_arguments()  # so that --help and mistakes in flags do not wait for the import of torch
    # set before torch is imported: threads of the model that only wait leave the cores to the workers
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    from peft_mudpt.lab.processes import stopped_by_signals
    from peft_mudpt.lab.terminal import one_line_errors

    with one_line_errors(), stopped_by_signals():
        main()
