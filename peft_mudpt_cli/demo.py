"""`peft-mudpt demo`: a page to try an adapter in a browser, or the folder of a Hugging Face Space that shows it."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path

from .parser import parse_and_run, parser_of_adapter


DESCRIPTION = """\
Try an adapter in a browser: drop a picture, edit the classes, see where CLIP looks, and compare with the plain CLIP.

It needs the extra [demo]. Ctrl-C ends the page."""
EXAMPLES = """\
examples:
  %(prog)s outputs/my_pictures                           prints an address to open in a browser of this machine
  %(prog)s outputs/my_pictures --host 0.0.0.0            other machines of the network can open the page, too
  %(prog)s user/adapter --classes "cat,dog,sea lion"
  %(prog)s outputs/my_pictures --space my_space          writes a folder to upload as a Hugging Face Space
"""


def make_parser() -> ArgumentParser:
    """
    Make the parser of the flags.

    Returns:
        The parser.
    """
    parser = parser_of_adapter(DESCRIPTION, EXAMPLES)
    parser.add_argument("--host", help="Address to listen at: 0.0.0.0 for other machines. Default: this machine only.")
    parser.add_argument("--port", type=int, help="Port. Default: the first free one from 7860 on.")
    parser.add_argument("--share", action="store_true", help="Also make a public address, through Gradio's servers.")
    parser.add_argument(
        "--space",
        metavar="FOLDER",
        type=Path,
        help="Start no page; write a Hugging Face Space that shows it to this folder, which must be new or empty.",
    )
    return parser


def main() -> None:
    """Show the page, or write the Space, as the flags of this process say (see `peft_mudpt.lab.web_demo`)."""
    parse_and_run(make_parser(), run)


def run(arguments: Namespace) -> None:
    """Show or write as parsed flags say. Raises a ValueError if a flag, or what it names, cannot be used."""
    from peft_mudpt.optional import require

    require("The demo", "demo", "gradio")

    from peft_mudpt.lab.data.class_names import split_names
    from peft_mudpt.lab.web_demo.demo import Demo
    from peft_mudpt.lab.web_demo.page import launch
    from peft_mudpt.lab.web_demo.space import write_space

    class_names = split_names(arguments.classes)
    loading = arguments.adapter, class_names, arguments.template, arguments.model_name_or_path
    if arguments.space is None:
        launch(Demo.load(*loading), arguments.host, arguments.port, arguments.share)
        return
    if arguments.host or arguments.port or arguments.share:
        raise ValueError("--host, --port and --share are for the page on this machine. Leave them out with --space.")
    space = write_space(arguments.space, *loading)
    print(f"{space} is written. This uploads it: hf upload USER/NAME {shlex.quote(str(space))} --repo-type space")
