"""Classify pictures with a saved adapter, among the classes it was trained on or among others.

python examples/predict.py outputs/fewshot picture.jpg another.jpg
python examples/predict.py user/adapter picture.jpg --classes "cat,dog,sea lion" --template "{}."
"""

import argparse


BATCH_SIZE = 32


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", metavar="ADAPTER", help="A folder with adapter_config.json, or a Hub id.")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="Picture files.")
    parser.add_argument("--classes", help="Comma-separated names. Default: those the adapter was trained on.")
    parser.add_argument(
        "--template",
        help="Text of a class that follows the text prompts, with {} for the name. Default: the adapter's.",
    )
    parser.add_argument("--model_name_or_path", help="The base CLIP. Default: the one the adapter names.")
    parser.add_argument("--top", type=int, default=5, help="Number of classes printed per picture. Default: 5.")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.top < 1:
        raise ValueError(f"--top {arguments.top} must be at least 1.")

    import torch

    from peft_mudpt.lab.predicting import check_picture, load_classifier, read_picture, split_names

    class_names = split_names(arguments.classes)
    for file in arguments.images:
        check_picture(file)
    classifier = load_classifier(arguments.adapter, class_names, arguments.template, arguments.model_name_or_path)
    classifier.to("cuda" if torch.cuda.is_available() else "cpu")
    for start in range(0, len(arguments.images), BATCH_SIZE):
        files = arguments.images[start : start + BATCH_SIZE]
        for file, best in zip(files, classifier.top_k([read_picture(file) for file in files], arguments.top)):
            print(file)
            for name, probability in best:
                print(f"  {100 * probability:5.1f} %  {name}")


if __name__ == "__main__":
    parse_arguments()  # so that --help and mistakes in flags do not wait for the import of torch

    from peft_mudpt.lab.terminal import one_line_errors

    with one_line_errors():
        main()
