"""`peft-mudpt doctor`: describes an installation for a bug report, and tries what works together."""

from __future__ import annotations

import getpass
import platform
import re
import sys
import tempfile
import warnings
from argparse import ArgumentParser
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .command import PACKAGE
from .extras import Extra, read_extras
from .parser import plain_parser


if TYPE_CHECKING:
    from transformers import CLIPModel

DESCRIPTION = """\
Print versions, extras, the device, the cache, and what works together, in a form to paste into a bug report.

Home folders are printed as ~, and no user names. The exit code is 1 if the package cannot run."""
EXAMPLES = """\
examples:
  %(prog)s
  %(prog)s > doctor.txt
"""


class Answer(NamedTuple):
    """
    What was found.

    Args:
        is_good: whether there was no error.
        text: what was found, or the error.
    """

    is_good: bool
    text: str


def make_parser() -> ArgumentParser:
    """
    Make the parser, which has no flags.

    Returns:
        The parser.
    """
    return plain_parser(DESCRIPTION, EXAMPLES)


def main() -> None:
    """
    Print the description of this installation.

    Raises:
        SystemExit: with the code 1 if the package cannot run.
    """
    make_parser().parse_args()
    about = metadata(PACKAGE)
    required, *extras = read_extras(about)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = {what: _attempt(ask) for what, ask in QUESTIONS.items()}
    for what, reason in NOT_NEEDED.items():
        if what in answers and not answers[what].is_good:
            answers[what] = Answer(False, f"{reason} (it fails here: {answers[what].text.removeprefix(NO)})")
    lines = [
        f"{PACKAGE} {about['Version']}, Python {platform.python_version()}, {platform.platform()}",
        f"required: {_found(required)}",
        "",
        *(f"{extra.name:<12}{_found(extra)}" for extra in extras),
        "",
        *(f"{what:<28}{answer.text}" for what, answer in answers.items()),
    ]
    print(without_names("\n".join(lines)))
    if required.missing or not answers[NECESSARY].is_good:
        sys.exit(1)


def without_names(text: str) -> str:
    """
    Remove what identifies the user.

    Args:
        text: any text.

    Returns:
        The text with ~ for the home folder, and USER for the user's name as a part of other paths.
    """
    text = text.replace(str(Path.home()), "~")
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # there is none, such as in some containers
        return text
    return re.sub(rf"(?<=[/\\]){re.escape(user)}(?![\w.-])", "USER", text)


def _found(extra: Extra) -> str:
    """The installed packages of an extra with their versions; if some are missing, these, and what needs them."""
    if not extra.missing:
        return ", ".join(extra.installed)
    return f"not installed: {', '.join(extra.missing)} (for {extra.purpose or 'everything'})"


def _attempt(ask: Callable[[], str]) -> Answer:
    try:
        return Answer(True, ask())
    except Exception as error:  # whatever a library raises is the answer
        first_line = str(error).strip().partition("\n")[0]
        return Answer(False, f"{NO}{type(error).__name__}: {first_line}")


def _device() -> str:
    from accelerate import Accelerator

    from peft_mudpt.lab.environment import hardware

    device, *others = hardware(Accelerator()).items()
    return ", ".join([device[1], *(f"{name} {value}" for name, value in others)])


def _cache() -> str:
    from peft_mudpt.lab.feature_cache import CacheOptions

    cache = CacheOptions().cache()
    if cache is None:
        return "off"
    folder = cache.folder.absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    with tempfile.TemporaryFile(dir=existing):  # asks the file system, because permissions are not all that it checks
        return f"{folder}, can be written"


def _clip() -> CLIPModel:
    from transformers import CLIPModel
    from transformers.utils import logging

    from peft_mudpt import demo

    logging.disable_progress_bar()
    return CLIPModel.from_pretrained(demo.MODEL_PATH)


def _mudpt() -> str:
    from peft import get_peft_model

    from peft_mudpt import MuDPTConfig

    get_peft_model(_clip(), MuDPTConfig())
    return WORKS


def _lora() -> str:
    from peft import LoraConfig, get_peft_model

    get_peft_model(_clip(), LoraConfig(target_modules=["q_proj"]))  # asks for optional packages, such as torchao
    return WORKS


def _add_adapter() -> str:
    from peft_mudpt import MuDPTConfig

    _clip().add_adapter(MuDPTConfig())
    return WORKS


WORKS, NO = "yes", "no: "
NECESSARY, ADD_ADAPTER = "MuDPT on a CLIP", "transformers' add_adapter"
# What is asked, by trying it. A new question is a function that returns what it found, or raises why not.
QUESTIONS: dict[str, Callable[[], str]] = {
    "device": _device,
    "cache": _cache,
    NECESSARY: _mudpt,
    "LoRA on a CLIP": _lora,
    ADD_ADAPTER: _add_adapter,
}
NOT_NEEDED = {ADD_ADAPTER: "not needed: PEFT's get_peft_model does the same"}
