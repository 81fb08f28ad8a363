"""Shows names as plain text in Markdown, because names of classes, files and data sets may contain markup."""

from __future__ import annotations

import re

from ..terminal import printable


# Markdown viewers turn these into links even after a backslash, but not in code.
ADDRESS = re.compile(r"[^\s|]*(?:://|www\.|@)[^\s|]*", re.IGNORECASE)
MARKUP = re.compile(r"[\\`*\[\]<>|~$&#]|(?<![^\W_])_|_(?![^\W_])")


def plain(text: str) -> str:
    """
    Write text so that Markdown shows it as it is: on one line, without markup, math and links.

    Args:
        text: any text.

    Returns:
        Markdown, which can also stand in a cell of a table.
    """
    text = _one_line(text)
    pieces, end = [], 0
    for address in ADDRESS.finditer(text):
        pieces += [MARKUP.sub(r"\\\g<0>", text[end : address.start()]), literal(address[0])]
        end = address.end()
    return "".join([*pieces, MARKUP.sub(r"\\\g<0>", text[end:])])


def literal(text: str) -> str:
    """
    Write text as inline code that shows it as it is, even if it contains backticks.

    Args:
        text: any text.

    Returns:
        Markdown on one line.
    """
    text = _one_line(text)
    if "`" not in text:
        return f"`{text}`"
    fence = "`" * (1 + max(map(len, re.findall("`+", text))))
    return f"{fence} {text} {fence}"


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))
