"""Names are shown as plain text in Markdown."""

import re

import pytest

from peft_mudpt.lab.report.escaping import literal, plain


@pytest.mark.parametrize(
    "text", ["my pets", "oxford_pets", "caltech-101", 'mudpt {"prompt_depth": 3}', "Blümchen (2)"]
)
def test_an_ordinary_name_is_unchanged(text):
    assert plain(text) == text and literal(text) == f"`{text}`"


@pytest.mark.parametrize(
    "text",
    ["a*b*", "_b_", "__c__", "$$ x $$", "~~x~~", "x#", "&lt;b&gt;", "<b>", "[a](b)", "a|b", "`x`", "\\", "![x]"],
)
def test_markup_is_escaped(text):
    assert re.sub(r"\\(.)", r"\1", plain(text)) == text  # what Markdown shows
    assert not re.search(r"(?<!\\)(?:\\\\)*[*$~#&<>\[\]|`]|(?<![\\\w])_|(?<!\\)_(?!\w)", plain(text))


@pytest.mark.parametrize("address", ["http://a.b/c", "https://x|y", "www.a.b", "WWW.a.b", "me@a.b", "mailto:me@a.b"])
def test_an_address_is_code_so_that_it_is_no_link(address):
    shown = plain(f"see {address} now")
    outside = re.sub("`[^`]*`", "", shown)
    assert not re.search(r"://|www[.]|@", outside, re.IGNORECASE)
    assert shown.replace("`", "").replace("\\", "") == f"see {address} now"


@pytest.mark.parametrize("show", [plain, literal])
@pytest.mark.parametrize(
    "text", ["\x1b[31mred", "a\u202eb", "a\u200bb", "a\u2028b", "a\x00b", "a\udc80b", "a\ufeffb", "a\U000e0041b"]
)
def test_an_invisible_character_is_shown_as_its_escape(show, text):
    assert show(text).isprintable()
