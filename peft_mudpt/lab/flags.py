"""Declares the flags of the scripts. Each has a default and a help text; its type annotation may hold a rule."""

from __future__ import annotations

import sys
from argparse import Action, ArgumentDefaultsHelpFormatter, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, ClassVar, Optional, TypeVar, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser

from ..rules import Rule, one_of
from .config_file import flags_in
from .similar import did_you_mean


def flag(default: Any, help: str, **metadata) -> Any:
    """
    Declare a dataclass field that `HfArgumentParser` turns into a flag.

    Args:
        default: value if the flag is not given.
        help: help text.
        metadata: other arguments of argparse's `add_argument`.

    Returns:
        The field.
    """
    return field(default=default, metadata={"help": help, **metadata})


def at_least(least: float) -> Rule:
    """
    Make a rule for a number with a lower bound.

    Args:
        least: smallest allowed value.

    Returns:
        The rule.
    """
    return Rule(f"at least {least}", lambda value: value >= least)


def more_than(limit: float) -> Rule:
    """
    Make a rule for a number that must exceed a limit.

    Args:
        limit: largest value that is not allowed.

    Returns:
        The rule.
    """
    return Rule(f"more than {limit}", lambda value: value > limit)


def at_most(limit: float) -> Rule:
    """
    Make a rule for a number with an upper bound.

    Args:
        limit: largest allowed value.

    Returns:
        The rule.
    """
    return Rule(f"at most {limit}", lambda value: value <= limit)


def share(least: float, limit: float) -> Rule:
    """
    Make a rule for a number in a half-open interval.

    Args:
        least: smallest allowed value.
        limit: the value must be less than this.

    Returns:
        The rule.
    """
    return Rule(f"at least {least} and less than {limit}", lambda value: least <= value < limit)


Count = Annotated[int, at_least(1)]
OptionalCount = Annotated[Optional[int], at_least(1)]


@dataclass(frozen=True)
class Options:
    """
    Base class for a group of flags. Each flag is a dataclass field made by `flag`. Every module of the lab declares
    the group that it reads.

    The value None satisfies every rule. `--help` lists the flags below the `title` of their group.

    Raises:
        ValueError: if a value is not among the `choices` of its field, or breaks a rule in the field's type
            annotation. The message names the flag.
    """

    title: ClassVar[str] = ""

    def __post_init__(self):
        kinds = _kinds(type(self))
        for option in fields(self):
            value = getattr(self, option.name)
            if value is None:
                continue
            kind, choices = kinds[option.name], option.metadata.get("choices")
            rules = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
            for rule in (*rules, one_of(*choices)) if choices else rules:
                rule.check(value, f"--{option.name}")

    @classmethod
    def implied(cls, given: Namespace) -> list[str]:
        """
        Tell what other flags imply, such as the CLIP that suits the pictures.

        Args:
            given: the flags as they were parsed, not yet checked.

        Returns:
            Command-line arguments, which replace defaults. Flags that the user gives replace them.
        """
        return []

    def part(self, kind: type[OptionsType]) -> OptionsType:
        """Copy the options that belong to `kind`, a base class of this class, into a new `kind`."""
        return kind(**{option.name: getattr(self, option.name) for option in fields(kind)})


@cache
def _kinds(options: type) -> dict[str, Any]:
    """The type annotations of a group of flags, with their rules."""
    return get_type_hints(options, include_extras=True)


OptionsType = TypeVar("OptionsType", bound=Options)
Parsed = TypeVar("Parsed")


def parse_flags(kind: type[Parsed], arguments: Optional[Sequence[str]] = None, description: str = "") -> Parsed:
    """
    Parse command-line arguments that must all be flags of one dataclass. `--config` names a file with further flags
    (see `config_file.flags_in`); those of the command line win.

    Args:
        kind: the dataclass, whose fields are made by `flag`.
        arguments: the arguments; None: those of this process.
        description: what `--help` prints first.

    Returns:
        An instance of `kind`.

    Raises:
        ValueError: if a flag is unknown, or a value is refused. Where argparse finds the mistake, it ends the process.
    """
    return parse(_parser(kind, description, Path(sys.argv[0]).name), arguments)


def parse(parser: HfArgumentParser, arguments: Optional[Sequence[str]] = None, weaker: Sequence[str] = ()) -> Any:
    """
    Parse command-line arguments that a parser must know.

    Args:
        parser: the parser (see `make_parser`).
        arguments: the arguments; None: those of this process.
        weaker: further arguments. Those of the command line and of `--config` win over them.

    Returns:
        An instance of the parser's dataclass.

    Raises:
        ValueError: as in `parse_flags`.
    """
    options, unknown = parse_some(parser, arguments, weaker=weaker)
    _refuse(unknown, _names(*parser.dataclass_types))
    return options


def parse_some(
    parser: HfArgumentParser,
    arguments: Optional[Sequence[str]] = None,
    others: Optional[type] = None,
    weaker: Sequence[str] = (),
) -> tuple[Any, list[str]]:
    """
    Parse the command-line arguments of a script that passes some of them to another one. `--config` names a file with
    flags of both.

    Args:
        parser: the parser of the script (see `make_parser`).
        arguments: the arguments; None: those of this process.
        others: the dataclass of the other script; None: there is none.
        weaker: see `parse`.

    Returns:
        An instance of the parser's dataclass, and the arguments that are no flags of it.

    Raises:
        ValueError: if a value, or a flag of the file, is refused, or if neither script has a flag. Where argparse
            finds the mistake, it ends the process.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    config = parser.parse_known_args(typed)[0].config
    if config is not None:
        kinds = [*([] if others is None else [others]), *parser.dataclass_types]
        known = {option.name: option.default for kind in kinds for option in fields(kind)}
        typed = [*flags_in(config, known), *typed]
    given = parser.parse_known_args([*weaker, *typed])[0]
    groups = [kind for kind in parser.dataclass_types if issubclass(kind, Options)]
    implied = [word for kind in groups for word in kind.implied(given)]
    options, *_, unknown = parser.parse_args_into_dataclasses(
        [*implied, *weaker, *typed], return_remaining_strings=True, look_for_args_file=False
    )
    if others is not None:
        known = _names(*parser.dataclass_types, others)
        _refuse([word for word in unknown if flag_name(word) not in (None, *known)], known)
    return options, unknown


def flag_name(given: str) -> Optional[str]:
    """
    Find the flag that a command-line argument sets.

    Args:
        given: the argument, such as "--seed", "--seed=1" or a value.

    Returns:
        The name of the flag, such as "seed"; None for a value.
    """
    return given.split("=")[0].removeprefix("--").replace("-", "_") if given.startswith("--") else None


def _names(*kinds: type) -> list[str]:
    return ["config", *(option.name for kind in kinds for option in fields(kind))]


def _refuse(unknown: Sequence[str], known: Sequence[str]) -> None:
    """Raise a ValueError if there are unknown arguments. It names the most similar of the known flags."""
    if unknown:
        question = did_you_mean(filter(None, map(flag_name, unknown)), known, "--{}".format)
        hint = f"{question} " if question else ""
        raise ValueError(f"Unknown arguments: {' '.join(unknown)}. {hint}--help lists the flags.")


class _Formatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Prints each flag with its default below the title of its group, and keeps the lines of examples."""

    def __init__(self, titles: Mapping[str, str], **options: Any):
        super().__init__(**options)
        self._titles = titles

    def add_arguments(self, actions: Iterable[Action]) -> None:
        for title, members in groupby(actions, lambda action: self._titles.get(action.dest, "")):
            if title:
                self.start_section(title)
            super().add_arguments(members)
            if title:
                self.end_section()


def _titles(kind: type) -> dict[str, str]:
    """The title of the group that declares each flag, which is the last of the base classes that have it."""
    groups = [group for group in kind.__mro__ if issubclass(group, Options)]
    return {option.name: group.title for group in groups for option in fields(group)}


def make_parser(
    kind: type,
    description: str = "",
    examples: str = "",
    usage: str = "%(prog)s [flags]",
    program: Optional[str] = None,
) -> HfArgumentParser:
    """
    Make a parser of command-line arguments.

    Args:
        kind: the dataclass, whose fields are made by `flag`.
        description: what `--help` prints first.
        examples: what `--help` prints last; `%(prog)s` stands for the program, also in `usage`.
        usage: how the program is called.
        program: the name of the program; None: that of this process.

    Returns:
        The parser. It knows no abbreviations of flags.
    """
    parser = HfArgumentParser(
        kind,
        prog=program,
        usage=usage,
        description=description,
        epilog=examples,
        formatter_class=partial(_Formatter, _titles(kind)),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="A YAML or JSON file with flags. Those of the command line win over it."
    )
    return parser


@cache
def _parser(kind: type, description: str, program: str) -> HfArgumentParser:
    """Built once, because a sweep parses the flags of each of its runs, several times."""
    return make_parser(kind, description, program=program)
