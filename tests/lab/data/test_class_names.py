"""The file that names the classes."""

import unicodedata

import pytest

from peft_mudpt.lab.data.class_names import read_class_names


def names_in(tmp_path, content: bytes, folders=("001.Cat", "dog, big", "caf\u00e9"), file="names.txt", **options):
    path = tmp_path / file
    path.write_bytes(content)
    return read_class_names(path, folders, **options)


def test_each_line_names_a_folder(tmp_path):
    content = "001.Cat = black-footed cat\r\n\ndog, big  =  a = b\n"
    assert names_in(tmp_path, content.encode()) == {"001.Cat": "black-footed cat", "dog, big": "a = b"}


def test_a_file_in_the_form_of_coops_imagenet_is_read_as_such(tmp_path):
    content = b"n01440764 tench\nn01484850 great white shark = fish\nsea lion  animal\n"
    assert names_in(tmp_path, content, ("n01440764", "n01484850", "sea lion", "n01484850 great white shark")) == {
        "n01440764": "tench",
        "n01484850 great white shark": "fish",
        "sea lion": "animal",
    }


def test_a_json_file_holds_the_name_of_each_folder(tmp_path):
    content = '{"001.Cat": " black-footed cat", "cafe\u0301": "tea house"}'.encode()
    assert names_in(tmp_path, content, file="names.json") == {"001.Cat": "black-footed cat", "caf\u00e9": "tea house"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"cow": "cow"}', "names.json names the folder 'cow', but the class folders are 001.Cat"),
        ('{"001.Cat": ""}', "a name for the folder '001.Cat'; found ''"),
        ('{"001.Cat": ["cat"]}', r"a name for the folder '001.Cat'; found \['cat'\]"),
        ('{"001.Cat": "cat", "001.Cat": "cow"}', "names '001.Cat' twice"),
        ('{"001.Cat": "cat"', "names.json is not JSON.*must look like"),
        ('["cat"]', "must look like"),
    ],
)
def test_a_json_file_that_cannot_be_used_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        names_in(tmp_path, content.encode(), file="names.json")


def test_a_file_may_name_other_folders_if_it_is_that_of_training(tmp_path):
    content = b"001.Cat = cat\ncow = cow\nn01440764 tench\n"
    assert names_in(tmp_path, content, may_name_others=True) == {"001.Cat": "cat"}


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
        (b"001.Cat= cat", "Line 1 .*spaces.*'001.Cat= cat'"),
        (b"n01440764 tench", "Line 1 .*'n01440764'.* 001.Cat, dog"),
        (b"dog, big cat", "Line 1 .*several folders, dog,, dog, big.*'folder = name'"),
        (b"001.Cat = ", "Line 1 "),
        ("caf\u00e9 = x".encode("latin-1"), "names.txt is not UTF-8"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        names_in(tmp_path, content, ("001.Cat", "dog,", "dog, big"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="--class_names .*nothing.txt"):
        read_class_names(tmp_path / "nothing.txt", ["cat"])
