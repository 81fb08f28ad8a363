"""How the flags of the scripts are declared: a default, a help text, and beside the type what a value must be."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Optional, TypeVar, get_args, get_origin, get_type_hints

from ..rules import Rule, one_of


def flag(default: Any, help: str, **metadata) -> Any:
    """A field of a dataclass that `HfArgumentParser` reads; `metadata` as for argparse's `add_argument`."""
    return field(default=default, metadata={"help": help, **metadata})


def at_least(least: float) -> Rule:
    """The rule of a number that has a smallest value."""
    return Rule(f"at least {least}", lambda value: value >= least)


def more_than(limit: float) -> Rule:
    """The rule of a number that must be above a limit."""
    return Rule(f"more than {limit}", lambda value: value > limit)


def share(least: float, limit: float) -> Rule:
    """The rule of a number from `least` to below `limit`."""
    return Rule(f"at least {least} and less than {limit}", lambda value: least <= value < limit)


Count = Annotated[int, at_least(1)]
OptionalCount = Annotated[Optional[int], at_least(1)]


@dataclass(frozen=True)
class Options:
    """
    A group of flags, each a field made by `flag`. Every room declares the group that it reads; None passes every rule.

    Raises:
        ValueError: if a value is none of a field's `choices` or breaks the rule in its type; it names the flag.
    """

    def __post_init__(self):
        kinds = get_type_hints(type(self), include_extras=True)
        for option in fields(self):
            value = getattr(self, option.name)
            if value is None:
                continue
            kind, choices = kinds[option.name], option.metadata.get("choices")
            rules = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
            for rule in (*rules, one_of(*choices)) if choices else rules:
                rule.check(value, f"--{option.name}")

    def part(self, kind: type[OptionsType]) -> OptionsType:
        """Those of these options that `kind`, a base of this class, declares."""
        return kind(**{option.name: getattr(self, option.name) for option in fields(kind)})


OptionsType = TypeVar("OptionsType", bound=Options)
