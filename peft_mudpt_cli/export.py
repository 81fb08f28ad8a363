"""`peft-mudpt export`: writes an adapter for a server."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from .parser import parse_and_run, parser_of_adapter


# By the suffix of the file. Without a suffix, the output is a folder.
FORMATS: dict[str, Literal["onnx", "torch_export"]] = {".onnx": "onnx", ".pt2": "torch_export"}
DESCRIPTION = (
    "Export an adapter for a server: as one file that classifies images, as two encoders for any classes, or folded, "
    "without its training parts."
)
EXAMPLES = """\
examples:
  %(prog)s outputs/my_pictures classifier.onnx               images in, class probabilities out
  %(prog)s outputs/my_pictures classifier.pt2                the same, for torch.export.load
  %(prog)s outputs/my_pictures outputs/encoders --encoders onnx
                                                             image and text encoder, so that classes can change
  %(prog)s outputs/my_pictures outputs/folded                a folder: the folded adapter
"""


def make_parser() -> ArgumentParser:
    """
    Make the parser of the flags.

    Returns:
        The parser.
    """
    parser = parser_of_adapter(DESCRIPTION, EXAMPLES)
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="A .onnx file, a .pt2 file or a new folder.")
    parser.add_argument(
        "--encoders",
        choices=sorted(FORMATS.values()),
        help="Write the image encoder and the text encoder as two files of this format to the folder OUTPUT.",
    )
    parser.add_argument(
        "--opset_version", type=int, help="The version of ONNX's operators, from 18 on. Default: that of torch."
    )
    return parser


def main() -> None:
    """Export as the flags of this process say (see `export_classifier`, `export_encoders`, `lab.save_folded`)."""
    parse_and_run(make_parser(), run)


def run(arguments: Namespace) -> None:
    """Export as parsed flags say. Raises a ValueError if a flag, or what it names, cannot be used."""
    output, suffix = arguments.output, arguments.output.suffix
    if suffix not in (*FORMATS, ""):
        raise ValueError(f"OUTPUT {output} must end in .onnx or .pt2, or be a folder without a suffix.")
    if suffix == "" and output.exists():
        raise ValueError(f"OUTPUT {output} already exists; give a new folder.")
    if suffix and arguments.encoders is not None:
        raise ValueError(f"OUTPUT {output} is one file, but --encoders writes two. Give a folder without a suffix.")
    if arguments.opset_version is not None and "onnx" not in (FORMATS.get(suffix), arguments.encoders):
        raise ValueError("--opset_version is for ONNX. Give a .onnx file, or --encoders onnx.")

    from peft_mudpt import export_classifier, export_encoders
    from peft_mudpt.lab.data.class_names import split_names
    from peft_mudpt.lab.run_classifier import load_classifier
    from peft_mudpt.lab.saving import save_folded

    class_names = split_names(arguments.classes)
    classifier = load_classifier(arguments.adapter, class_names, arguments.template, arguments.model_name_or_path)
    if suffix:
        export_classifier(classifier, output, FORMATS[suffix], arguments.opset_version)
        weights = Path(f"{output}.data")  # where the weights of a model above 1.5 GiB are
        files = [output, weights] if weights.exists() else [output]
        print(f"{output}: {_megabytes(files)}, {len(classifier.class_names)} classes")
    elif arguments.encoders is not None:
        export_encoders(classifier, output, arguments.encoders, arguments.opset_version)
        print(f"{output}: {_megabytes(output.iterdir())}, encoders of images and texts")
    else:
        kilobytes = save_folded(classifier.model, arguments.adapter, output) / 1e3
        print(f"{output}: {kilobytes:.1f} kB")


def _megabytes(files: Iterable[Path]) -> str:
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"
