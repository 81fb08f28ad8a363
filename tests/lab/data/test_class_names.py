"""The file that names the classes."""

import unicodedata

import pytest

from peft_mudpt.lab.data.class_names import read_class_names


def names_in(tmp_path, content: bytes, folders=("001.Cat", "dog, big", "caf\u00e9")):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    return read_class_names(path, folders)


def test_each_line_names_a_folder(tmp_path):
    content = "001.Cat = black-footed cat\r\n\ndog, big  =  a = b\n"
    assert names_in(tmp_path, content.encode()) == {"001.Cat": "black-footed cat", "dog, big": "a = b"}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_folders_and_names_have_one_form_whatever_program_wrote_the_file(tmp_path, form):
    content = unicodedata.normalize(form, "caf\u00e9 = th\u00e9\n").encode("utf-8-sig")
    assert names_in(tmp_path, content) == {"caf\u00e9": "th\u00e9"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"001.Cat = cat\ncow = cow", "Line 2 .*'cow'.* 001.Cat, dog"),
        (b"001.Cat = cat\n001.Cat = cow", "Line 2 .*'001.Cat' a second time"),
        (b"001.Cat=cat", "Line 1 .*spaces.*'001.Cat=cat'"),
        (b"001.Cat = ", "Line 1 "),
        ("caf\u00e9 = x".encode("latin-1"), "names.txt is not UTF-8"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        names_in(tmp_path, content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="--class_names .*nothing.txt"):
        read_class_names(tmp_path / "nothing.txt", ["cat"])
