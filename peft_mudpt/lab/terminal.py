"""What the scripts write to a terminal: errors in one line, and names without control characters."""

from __future__ import annotations

import json
import os
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


USER_ERROR = 2  # as argparse
DIVERGED = 3  # the loss became NaN or infinite
IN_USE = 4  # another process uses the folder
INTERRUPTED = 130  # as shells report Ctrl-C
LAUNCHED_BY_ACCELERATE = "ACCELERATE_DYNAMO_BACKEND"  # a variable that `accelerate launch` always sets


class InUse(ValueError):
    """Another process uses a folder."""


def printable(text: str) -> str:
    r"""
    Make text safe to print, because names of classes and files may come from strangers.

    Args:
        text: any text.

    Returns:
        The text with an escape, such as `\x1b`, for each character that is invisible or controls the terminal or the
        direction of writing (Unicode's categories C, Zl and Zp).
    """

    def is_visible(character: str) -> bool:
        category = unicodedata.category(character)
        return category[0] != "C" and category not in ("Zl", "Zp")

    return "".join(c if is_visible(c) else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def one_line_errors(*more: type[Exception]) -> Iterator[None]:
    """
    End the script with one line, such as `fewshot.py: error: ...`, instead of a traceback, if the user can correct the
    error.

    Such errors concern options, data, files, the network or missing packages (ValueError, OSError, ImportError, and
    the errors of the Hub's HTTP client), or are a loss that is not finite (FloatingPointError). Every other error
    keeps its traceback, because it may be a bug. Ctrl-C also ends the script with one line. Of several processes,
    only the main one prints; the summary that torchrun prints at the end has the line of the process that failed
    first.

    Args:
        more: further types of errors whose message alone tells the user what to do.

    Raises:
        SystemExit: with the code `USER_ERROR`, `DIVERGED`, `IN_USE` or `INTERRUPTED`.
    """
    from huggingface_hub.errors import HTTPError  # that of the HTTP client in use

    try:
        yield
    except FloatingPointError as error:
        _end(f"error: {error}", DIVERGED)
    except InUse as error:
        _end(f"error: {error}", IN_USE)
    except (ValueError, OSError, ImportError, HTTPError, *more) as error:
        _end(f"error: {error}" if str(error) else f"error: {type(error).__name__}", USER_ERROR)
    except KeyboardInterrupt as interrupt:
        _end(str(interrupt) or "interrupted", INTERRUPTED)


def _end(words: str, code: int) -> None:
    message = f"{Path(sys.argv[0]).name}: {words.strip()}"
    message = "\n".join(map(printable, message.splitlines()))
    reply = os.environ.get("TORCHELASTIC_ERROR_FILE")  # torchrun reads its summary of a failed process from there
    if reply:
        details = {"py_callstack": message, "timestamp": str(int(time.time()))}
        with suppress(OSError):
            Path(reply).write_text(json.dumps({"message": {"message": message, "extraInfo": details}}))
    elif LAUNCHED_BY_ACCELERATE in os.environ and code == USER_ERROR:
        message += "\n(If accelerate adds a traceback of its own, `accelerate launch --quiet` leaves it out.)"
    if not reply or os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr, flush=True)
    raise SystemExit(code) from None
