"""Finding the picture files of a folder."""

import os
from importlib.util import find_spec

import pytest

from peft_mudpt.lab.data.files import describe_left_aside, list_pictures, picture_suffixes


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def listed(folder) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_pictures(folder)[0]]


def test_pictures_of_subfolders_are_listed_whatever_the_case_of_their_suffix(tmp_path):
    touch(tmp_path, "b.JPG", "a b.jpeg", "2019/Summer/c.Png", "2019/d.webp", "e.MPO")
    assert listed(tmp_path) == ["2019/Summer/c.Png", "2019/d.webp", "a b.jpeg", "b.JPG", "e.MPO"]


def test_other_files_are_counted_by_kind(tmp_path):
    touch(tmp_path, "1.jpg", "a.CR2", "in/b.cr2", "in/README", "c.pdf", "clip.mp4")
    assert list_pictures(tmp_path)[1] == {".cr2": 2, "without a suffix": 1, ".pdf": 1, ".mp4": 1}


def test_hidden_files_and_those_of_a_system_are_skipped_silently(tmp_path):
    hidden = (".DS_Store", "._1.jpg", ".cache/2.jpg", "__MACOSX/3.jpg", "Thumbs.db", "in/desktop.ini")
    touch(tmp_path, "1.jpg", *hidden)
    assert listed(tmp_path) == ["1.jpg"] and not list_pictures(tmp_path)[1]


def test_links_to_folders_are_followed_once_and_never_upwards(tmp_path):
    touch(tmp_path, "elsewhere/1.jpg", "root/dog/2.jpg", "root/cat/3.jpg")
    cat = tmp_path / "root" / "cat"
    for name, target in {"more": "elsewhere", "same": "elsewhere", "loop": "root/cat", "up": "root"}.items():
        (cat / name).symlink_to(tmp_path / target)
    assert listed(cat) == ["3.jpg", "more/1.jpg"]


def test_what_is_no_regular_file_is_not_taken_for_a_picture(tmp_path):
    touch(tmp_path, "1.jpg")
    (tmp_path / "2.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    os.mkfifo(tmp_path / "3.jpg")
    assert listed(tmp_path) == ["1.jpg"]
    left_aside = describe_left_aside(list_pictures(tmp_path)[1])
    assert "2 that are links" in left_aside and "1 that are no regular files" in left_aside


def test_a_path_that_is_not_utf_8_is_refused_by_name(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).touch()
    with pytest.raises(ValueError, match=r"caf\\xe9.jpg"):
        list_pictures(tmp_path)


def test_the_suffixes_are_those_of_formats_that_pillow_reads():
    suffixes = picture_suffixes()
    assert {".jpg", ".jpeg", ".png", ".tiff", ".webp"} <= suffixes and ".pdf" not in suffixes
    assert find_spec("pillow_heif") is None or ".heic" in suffixes


def test_the_description_begins_with_the_most_frequent_kind_and_advises():
    assert describe_left_aside({".txt": 2, ".heic": 20}) == '20 .heic (pip install "peft_mudpt[heic]"), 2 .txt'
