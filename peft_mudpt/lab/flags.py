"""How the flags of the scripts are declared: a default, a help text, and beside the type what a value must be."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Optional, TypeVar, get_args, get_origin, get_type_hints


Number = TypeVar("Number", int, float)


def flag(default: Any, help: str, **metadata) -> Any:
    """A field of a dataclass that `HfArgumentParser` reads; `metadata` as for argparse's `add_argument`."""
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True)
class AtLeast:
    """The rule of a number: the smallest value that is allowed."""

    least: float

    def accepts(self, value: float) -> bool:
        return value >= self.least

    def __str__(self) -> str:
        return f"at least {self.least}"


@dataclass(frozen=True)
class MoreThan:
    """The rule of a number: the largest value that is too small."""

    limit: float

    def accepts(self, value: float) -> bool:
        return value > self.limit

    def __str__(self) -> str:
        return f"more than {self.limit}"


@dataclass(frozen=True)
class Within:
    """The rule of a share: from `least`, up to but without `limit`."""

    least: float
    limit: float

    def accepts(self, value: float) -> bool:
        return self.least <= value < self.limit

    def __str__(self) -> str:
        return f"at least {self.least} and less than {self.limit}"


Count = Annotated[int, AtLeast(1)]
OptionalCount = Annotated[Optional[int], AtLeast(1)]


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
            choices = option.metadata.get("choices")
            if choices and value not in choices:
                raise ValueError(f"--{option.name} {value!r} is none of {', '.join(choices)}.")
            kind = kinds[option.name]
            for rule in get_args(kind)[1:] if get_origin(kind) is Annotated else ():
                if not rule.accepts(value):
                    raise ValueError(f"--{option.name} {value} must be {rule}.")

    def part(self, kind: type[OptionsType]) -> OptionsType:
        """Those of these options that `kind`, a base of this class, declares."""
        return kind(**{option.name: getattr(self, option.name) for option in fields(kind)})


OptionsType = TypeVar("OptionsType", bound=Options)
