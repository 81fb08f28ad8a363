"""`peft-mudpt export`: writes an adapter for a server."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Literal

from .parser import add_adapter, parse_and_run, plain_parser


# By the suffix of the file. Without a suffix, the output is a folder.
FORMATS: dict[str, Literal["onnx", "torch_export"]] = {".onnx": "onnx", ".pt2": "torch_export"}
DESCRIPTION = (
    "Export an adapter for a server: as one file that classifies images, or folded, without its training parts."
)
EXAMPLES = """\
examples:
  %(prog)s outputs/my_pictures classifier.onnx               images in, class probabilities out
  %(prog)s outputs/my_pictures classifier.pt2                the same, for torch.export.load
  %(prog)s outputs/my_pictures outputs/folded                a folder: the folded adapter
"""


def make_parser() -> ArgumentParser:
    """
    Make the parser of the flags.

    Returns:
        The parser.
    """
    parser = plain_parser(DESCRIPTION, EXAMPLES)
    add_adapter(parser)
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="A .onnx file, a .pt2 file or a new folder.")
    return parser


def main() -> None:
    """Export as the flags of this process say (see `export_classifier` and `lab.save_folded`)."""
    parse_and_run(make_parser(), run)


def run(arguments: Namespace) -> None:
    """Export as parsed flags say. Raises a ValueError if a flag, or what it names, cannot be used."""
    if arguments.output.suffix not in (*FORMATS, ""):
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
