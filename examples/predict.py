"""Classify pictures with a saved adapter, among the classes it was trained on or among others.

A picture that cannot be read does not stop the others. They are listed at the end, and the exit code is then 1.

python examples/predict.py outputs/fewshot picture.jpg another.jpg
python examples/predict.py user/adapter picture.jpg --classes "cat,dog,sea lion" --template "{}."
"""

import argparse
import sys


BATCH_SIZE = 32


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", metavar="ADAPTER", help="A folder that fewshot.py wrote, or a Hub id.")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="Picture files.")
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
    parser.add_argument("--top", type=int, default=5, help="Number of classes printed per picture. Default: 5.")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.top < 1:
        raise ValueError(f"--top {arguments.top} must be at least 1.")

    import torch

    from peft_mudpt.lab.predicting import classify_files, load_classifier, split_names
    from peft_mudpt.lab.terminal import printable

    class_names = split_names(arguments.classes)
    classifier = load_classifier(arguments.adapter, class_names, arguments.template, arguments.model_name_or_path)
    classifier.to("cuda" if torch.cuda.is_available() else "cpu")
    if classifier.template is None and (texts := classifier.class_texts):
        print(printable(f"{sum(map(len, texts))} texts of {len(texts)} classes, such as {texts[0][0]!r}"))
    unreadable = []
    for file, best in classify_files(classifier, arguments.images, arguments.top, BATCH_SIZE):
        if isinstance(best, ValueError):
            unreadable.append(printable(str(best)))
            continue
        print(printable(file))
        for name, probability in best:
            print(f"  {100 * probability:5.1f} %  {printable(name)}")
    if unreadable:
        print(f"{len(unreadable)} of {len(arguments.images)} pictures have no answer:", file=sys.stderr)
        print(*unreadable, sep="\n", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    parse_arguments()  # so that --help and mistakes in flags do not wait for the import of torch

    from peft_mudpt.lab.terminal import one_line_errors

    with one_line_errors():
        main()
