"""`peft-mudpt completion`: prints a file with which a shell completes commands, flags and files."""

from __future__ import annotations

from argparse import ArgumentParser

import shtab

from .command import COMMANDS, load
from .command import make_parser as make_parser_of_commands
from .parser import plain_parser


DESCRIPTION = "Print a file that makes a shell complete commands, flags and files. Print it again after an update."
EXAMPLES = """\
examples:
  %(prog)s bash > ~/.local/share/bash-completion/completions/peft-mudpt
  %(prog)s zsh > ~/.zfunc/_peft-mudpt        if ~/.zshrc has `fpath+=~/.zfunc` before `compinit`
  %(prog)s fish > ~/.config/fish/completions/peft-mudpt.fish
"""
# What `--help` calls the value of a flag, if it is a folder or any file.
FOLDERS, FILES = ("FOLDER", "RESULTS_DIR"), ("FILE", "IMAGE", "ADAPTER", "OUTPUT")


def make_parser() -> ArgumentParser:
    """
    Make the parser of the flags.

    Returns:
        The parser.
    """
    parser = plain_parser(DESCRIPTION, EXAMPLES)
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="The shell.")
    return parser


def main() -> None:
    """Print the completions for the shell that the command line names."""
    shell = make_parser().parse_args().shell
    print(shtab.complete(_all_flags(), shell))


def _all_flags() -> ArgumentParser:
    """The parser of the command with those of all subcommands. It imports what these need, such as torch."""
    parsers = {name: load(name).make_parser() for name in COMMANDS}
    for parser in parsers.values():
        for action in parser._actions:  # argparse has no public list of them
            if action.metavar in FOLDERS:
                action.complete = shtab.DIRECTORY
            elif action.metavar in FILES:
                action.complete = shtab.FILE
    return make_parser_of_commands(parsers)
