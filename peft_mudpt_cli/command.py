"""The command itself: which subcommands there are, and how one is started."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import MappingProxyType, ModuleType
from typing import NoReturn


PACKAGE = "peft_mudpt"
PROGRAM = "peft-mudpt"
USER_ERROR, INTERRUPTED = 2, 130  # as in `lab.terminal`, which takes seconds to import
EXAMPLES = f"""\
examples:
  {PROGRAM} train                                    adapt a tiny CLIP to drawn shapes; needs no pictures, no network
  {PROGRAM} train my_pictures                        adapt CLIP to my_pictures, which holds a folder for each class
  {PROGRAM} predict outputs/my_pictures new.jpg      classify a new picture
  {PROGRAM} COMMAND --help                           all flags of a command, with examples

exit codes:
  0    done
  1    predict: some pictures have no answer; doctor: the package cannot run; otherwise a bug, which has a traceback
  2    something to correct: a flag, a file, a missing package, the network, a run of compare; the last line names it.
       Without a command, this help is printed
  3    the training diverged: the loss became NaN or infinite
  4    another process uses the output folder
  130  interrupted by Ctrl-C; the same command goes on from the last checkpoint
"""


# What each subcommand does. A new one is an entry here, and a module of its name with `make_parser()` and `main()`,
# which read the flags of this process.
COMMANDS = {
    "train": "Adapt CLIP to a folder of pictures, and measure its accuracy before and after.",
    "predict": "Classify pictures with a trained adapter.",
    "evaluate": "Test a trained adapter on another folder of labeled pictures.",
    "compare": "Train and test several methods, with several seeds and numbers of shots.",
    "report": "Print tables of results, and write a report with plots.",
    "export": "Write a trained adapter as an ONNX or torch.export file, or folded.",
    "demo": "Try a trained adapter in a browser, or write a Hugging Face Space that does.",
    "doctor": "Print versions, the device, and what works together, for a bug report.",
    "completion": "Print a file that makes the shell complete commands and flags.",
}

# What they need beside the package itself, by the name of the import. Some say themselves what is missing.
NEEDED = {"accelerate": "accelerate", "datasets": "datasets", "PIL": "Pillow"}
SAY_THEMSELVES = ("demo", "doctor", "completion")


def make_parser(parsers: Mapping[str, ArgumentParser] = MappingProxyType({})) -> ArgumentParser:
    """
    Make the parser of the first word.

    Args:
        parsers: parsers of subcommands whose flags this parser is to have, too, by name.

    Returns:
        The parser.
    """
    parser = ArgumentParser(
        PROGRAM,
        description="Few-shot adaptation of CLIP by multi-modal prompts.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PACKAGE} {version(PACKAGE)}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    for name, what_it_does in COMMANDS.items():
        with_flags = [parsers[name]] if name in parsers else []
        subparsers.add_parser(name, help=what_it_does, parents=with_flags, add_help=False)
    return parser


def load(name: str) -> ModuleType:
    """
    Import the module of a subcommand.

    Args:
        name: one of `COMMANDS`.

    Returns:
        The module.
    """
    return import_module(f"{__package__}.{name}")


def main() -> None:
    """
    Run the subcommand that the command line names.

    Raises:
        SystemExit: with one of the codes that `--help` lists.
    """
    parser = make_parser()
    if not sys.argv[1:]:
        parser.print_help()
        sys.exit(USER_ERROR)
    name = parser.parse_args(sys.argv[1:2]).command
    sys.argv = [f"{PROGRAM} {name}", *sys.argv[2:]]  # a subcommand reads its flags as a program of its own would
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    try:
        if missing and name not in SAY_THEMSELVES and not {"-h", "--help"}.intersection(sys.argv):
            raise ImportError(f"it needs {', '.join(missing)}")
        load(name).main()
    except ImportError as error:
        end(
            f'error: {error}. `pip install "{PACKAGE}[cli]"` installs what the command needs, and '
            f"`{PROGRAM} doctor` tells what does not fit together.",
            USER_ERROR,
        )
    except KeyboardInterrupt:  # while the libraries were imported
        end("interrupted", INTERRUPTED)


def end(words: str, code: int) -> NoReturn:
    """Print a last line to the standard error, and end with an exit code. Raises a SystemExit."""
    print(f"{sys.argv[0]}: {words}", file=sys.stderr)
    raise SystemExit(code) from None
