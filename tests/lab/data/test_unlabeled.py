"""Pictures without labels, in files, folders and parquet files."""

import io
import os
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from PIL import Image

from peft_mudpt import open_picture
from peft_mudpt.lab.data.unlabeled import find_column, find_pictures


def content(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def shade(picture) -> int:
    return open_picture(picture).getpixel((0, 0))[0]


def write(path, columns, **options) -> str:
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(4):
        (tmp_path / ("in" if i % 2 else ".") / f"{i}.png").write_bytes(content(i))
    (tmp_path / "note.txt").touch()
    return tmp_path


def test_files_and_folders_are_listed_in_the_order_of_the_command(folder):
    found, left_aside = find_pictures([str(folder / "2.png"), str(folder), "gone.png"])
    names = ["2.png", "0.png", "2.png", "in/1.png", "in/3.png"]
    assert list(found) == [*(str(folder / name) for name in names), "gone.png"]
    assert left_aside == {".txt": 1}


def test_a_name_that_is_not_utf_8_is_kept():
    name = b"\xff.png".decode("utf-8", "surrogateescape")
    assert list(find_pictures([name])[0]) == [name]


@pytest.mark.parametrize("rows_per_group", [3, 1000])
@pytest.mark.parametrize("kind", ["datasets", "bytes", "paths"])
def test_the_pictures_of_a_parquet_file_are_read_in_any_order(tmp_path, kind, rows_per_group):
    contents = [content(i) for i in range(50)]
    for i, picture in enumerate(contents):
        (tmp_path / f"{i}.png").write_bytes(picture)
    paths = [str(tmp_path / f"{i}.png") for i in range(50)]
    columns = {
        "datasets": [{"bytes": picture, "path": path} for picture, path in zip(contents, paths)],
        "bytes": contents,
        "paths": paths,
    }
    file = write(tmp_path / "x.parquet", {"photo": columns[kind], "n": range(50)}, row_group_size=rows_per_group)
    found = find_pictures([file])[0]
    assert list(map(shade, found)) == list(range(50))
    order = [7, 8, 30, 2, 49, 49, 31, 0]
    assert [shade(found[i]) for i in order] == order
    assert found.name(found[5], 5) == ("row 5" if kind == "bytes" else paths[5])


def test_a_file_that_datasets_wrote_is_read(tmp_path):
    pictures = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(5)]
    Dataset.from_dict({"image": pictures, "text": list("abcde")}).to_parquet(tmp_path / "x.parquet")
    assert list(map(shade, find_pictures([str(tmp_path / "x.parquet")])[0])) == list(range(5))


def test_several_parquet_files_follow_each_other(tmp_path):
    files = [write(tmp_path / f"{i}.parquet", {"image": [content(2 * i), content(2 * i + 1)]}) for i in range(3)]
    assert list(map(shade, find_pictures(files)[0])) == list(range(6))


def test_a_reader_that_is_sent_to_another_process_begins_anew(tmp_path):
    found = find_pictures([write(tmp_path / "x.parquet", {"image": [content(i) for i in range(40)]})])[0]
    found[20]
    assert shade(pickle.loads(pickle.dumps(found))[21]) == 21


def test_every_row_behind_damage_raises_its_error_and_those_before_are_read(tmp_path):
    rows = [content(i) + bytes(5000) for i in range(200)]
    file = tmp_path / "x.parquet"
    write(file, {"image": rows}, compression="none", use_dictionary=False, data_page_size=20_000)
    damaged = bytearray(file.read_bytes())
    middle = damaged.index(rows[100]) + len(rows[100])
    damaged[middle : middle + 4] = b"\xff\xff\xff\x7f"  # the length of the next row
    file.write_bytes(damaged)
    found = find_pictures([str(file)])[0]
    assert shade(found[0]) == 0
    for i in (101, 150, 199):
        with pytest.raises(Exception):  # noqa: B017  whatever pyarrow raises
            found[i]
    assert shade(found[80]) == 80


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image": [{"bytes": b"", "path": ""}], "raw": [b""], "text": [""]}, "image"),
        ({"raw": [b""], "text": [""], "n": [1]}, "raw"),
        ({"file": [""], "n": [1]}, "file"),
        ({"file": pa.array([""]).dictionary_encode()}, "file"),
        ({"file": pa.array([""], pa.large_string())}, "file"),
    ],
)
def test_the_only_possible_column_is_found(tmp_path, columns, expected):
    assert find_column([write(tmp_path / "x.parquet", columns)]) == expected


@pytest.mark.parametrize(
    ("columns", "named", "message"),
    [
        ({"n": [1]}, None, "no columns.*of n.*--image_column"),
        ({"a": [""], "b": [""]}, None, "2 columns.*of a, b.*such as a"),
        ({"a": [""]}, "b", "column b .*is missing.* has a;"),
        ({"a": [1]}, "a", "column a .*is int64"),
        ({"a": [{"x": 1}]}, "a", "column a .*is struct"),
    ],
)
def test_a_column_that_cannot_be_meant_is_refused(tmp_path, columns, named, message):
    with pytest.raises(ValueError, match=message):
        find_column([write(tmp_path / "x.parquet", columns)], named)


def test_a_later_file_without_the_column_is_named(tmp_path):
    files = [write(tmp_path / "a.parquet", {"image": [b""]}), write(tmp_path / "b.parquet", {"photo": [b""]})]
    with pytest.raises(ValueError, match=f"image of {files[1]} is missing"):
        find_pictures(files)


def test_inputs_that_hold_no_pictures_are_refused(tmp_path):
    (tmp_path / "note.txt").touch()
    with pytest.raises(ValueError, match=f"{tmp_path} holds no pictures .*1 .txt"):
        find_pictures([str(tmp_path)])
    with pytest.raises(ValueError, match="holds no rows"):
        find_pictures([write(tmp_path / "x.parquet", {"image": pa.array([], pa.binary())})])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name in ("broken.parquet", "gone.parquet"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            find_pictures([str(tmp_path / name)])


def test_parquet_files_are_not_mixed_with_pictures_and_a_column_needs_one(tmp_path):
    with pytest.raises(ValueError, match="x.parquet and a.png were given"):
        find_pictures(["x.parquet", "a.png"])
    with pytest.raises(ValueError, match="--image_column photo needs a parquet file"):
        find_pictures(["a.png"], "photo")


@pytest.mark.parametrize("change", ["another file", "another size", "another time"])
def test_a_fingerprint_changes_with_the_files(folder, change):
    before = find_pictures([str(folder)])[0].fingerprint()
    assert find_pictures([str(folder)])[0].fingerprint() == before
    if change == "another file":
        (folder / "4.png").touch()
    elif change == "another size":
        (folder / "0.png").write_bytes(content(0) + b"x")
    else:
        os.utime(folder / "0.png", (1, 1))
    assert find_pictures([str(folder)])[0].fingerprint() != before
