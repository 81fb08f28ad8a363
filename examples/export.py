"""Export an adapter for a server: as one file that classifies images, or folded, without its training parts.

python examples/export.py outputs/fewshot classifier.onnx                 # images in, class probabilities out
python examples/export.py outputs/fewshot classifier.pt2                  # the same, for torch.export.load
python examples/export.py outputs/fewshot outputs/folded                  # a folder: the folded adapter
"""

from __future__ import annotations

import argparse
from pathlib import Path


FORMATS = {".onnx": "onnx", ".pt2": "torch_export", "": "folded"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", metavar="ADAPTER", help="A folder that fewshot.py wrote, or a Hub id.")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="A .onnx file, a .pt2 file or a new folder.")
    parser.add_argument("--classes", help="Names, as for predict.py. Default: those the adapter was trained on.")
    parser.add_argument("--template", help="Text of a class, as for predict.py. Default: the adapter's.")
    parser.add_argument("--model_name_or_path", help="The base CLIP. Default: the one the adapter names.")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.output.suffix not in FORMATS:
        raise ValueError(f"OUTPUT {arguments.output} must end in .onnx or .pt2, or be a folder without a suffix.")
    if arguments.output.suffix == "" and arguments.output.exists():
        raise ValueError(f"OUTPUT {arguments.output} already exists; give a new folder.")

    from peft_mudpt import export_classifier
    from peft_mudpt.lab.predicting import load_classifier, split_names
    from peft_mudpt.lab.saving import save_folded

    class_names = split_names(arguments.classes)
    classifier = load_classifier(arguments.adapter, class_names, arguments.template, arguments.model_name_or_path)
    if arguments.output.suffix:
        export_classifier(classifier, arguments.output, FORMATS[arguments.output.suffix])
        weights = Path(f"{arguments.output}.data")  # where the weights of a model above 1.5 GiB are
        files = [arguments.output, weights] if weights.exists() else [arguments.output]
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        print(f"{arguments.output}: {megabytes:.1f} MB, {len(classifier.class_names)} classes")
    else:
        kilobytes = save_folded(classifier.model, arguments.adapter, arguments.output) / 1e3
        print(f"{arguments.output}: {kilobytes:.1f} kB")


if __name__ == "__main__":
    parse_arguments()  # so that --help and mistakes in flags do not wait for the import of torch

    from peft_mudpt.lab.terminal import one_line_errors

    with one_line_errors():
        main()
