"""What subcommands share that parse their flags before torch is imported."""

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable


def plain_parser(description: str, examples: str) -> ArgumentParser:
    """
    Make a parser without flags.

    Args:
        description: what `--help` prints first.
        examples: what `--help` prints last; `%(prog)s` stands for the program.

    Returns:
        The parser.
    """
    return ArgumentParser(
        description=description, epilog=examples, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )


def parser_of_adapter(description: str, examples: str) -> ArgumentParser:
    """
    Make a parser of the flags that name an adapter and its classes (see `lab.run_classifier.load_classifier`).

    Args:
        description, examples: see `plain_parser`.

    Returns:
        The parser.
    """
    parser = plain_parser(description, examples)
    parser.add_argument("adapter", metavar="ADAPTER", help="A folder that `train` wrote, or a Hub id.")
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
    return parser


def add_calibrated(parser: ArgumentParser, what: str) -> None:
    """
    Add the two flags that say whether probabilities are calibrated. Without either, `calibrated` is None.

    Args:
        parser: the parser that gets them.
        what: which probabilities they are.
    """
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--calibrated",
        action="store_true",
        default=None,
        help=f"Calibrate {what}: divide the logits by the temperature of the run's validation pictures. Default: if "
        "the run had some, and for its own classes.",
    )
    choice.add_argument(
        "--no_calibrated", dest="calibrated", action="store_false", help=f"Leave {what} as the logits make them."
    )


def parse_and_run(parser: ArgumentParser, run: Callable[[Namespace], None]) -> None:
    """
    Parse the flags of this process, and run what they ask for. Errors that the user can correct are one line.

    Args:
        parser: the parser.
        run: what to do with the parsed flags.
    """
    arguments = parser.parse_args()  # first, so that --help and mistakes in flags do not wait for torch

    from peft_mudpt.lab.terminal import one_line_errors

    with one_line_errors():
        run(arguments)
