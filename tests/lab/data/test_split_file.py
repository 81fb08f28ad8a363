"""The file that assigns pictures to splits and groups."""

import unicodedata
from pathlib import Path

import pytest

from peft_mudpt.lab.data.separation import Picture
from peft_mudpt.lab.data.split_file import read_split


PICTURES = [Picture(Path(item), 0, item) for item in ("cat/1.png", "cat/a, b.png", "dog/in/caf\u00e9.png")]


def assigned(tmp_path, content: str, encoding="utf-8") -> dict:
    path = tmp_path / "split.csv"
    path.write_text(content, encoding=encoding)
    return {part: [(p.item, p.group) for p in pictures] for part, pictures in read_split(path, PICTURES).items()}


def test_pictures_are_assigned_to_splits_and_groups(tmp_path):
    content = (
        'split,note,file,group\ntest,x,./cat/1.png,\ntrain,,"cat/a, b.png",anna\ntrain,,dog/in/caf\u00e9.png,anna\n'
    )
    assert assigned(tmp_path, content) == {
        "test": [("cat/1.png", None)],
        "train": [("cat/a, b.png", "anna"), ("dog/in/caf\u00e9.png", "anna")],
    }


def test_one_of_the_columns_may_be_missing(tmp_path):
    rows = [("cat/1.png", "test"), ('"cat/a, b.png"', "validation"), ("dog/in/caf\u00e9.png", "train")]
    table = "\n".join(",".join(row) for row in rows)
    assert {part: len(items) for part, items in assigned(tmp_path, "file,split\n" + table).items()} == {
        "test": 1,
        "validation": 1,
        "train": 1,
    }
    groups = assigned(tmp_path, "file,group\n" + table)
    assert [group for _, group in groups.pop("train")] == ["test", "validation", "train"] and not groups


def test_files_are_found_whatever_program_wrote_the_table(tmp_path):
    decomposed = unicodedata.normalize("NFD", "dog/in/caf\u00e9.png")
    content = f'file,split\r\ncat/1.png,train\r\n"cat/a, b.png",train\r\n{decomposed},train\r\n\r\n'
    assert len(assigned(tmp_path, content, encoding="utf-8-sig")["train"]) == 3


ROWS = 'cat/1.png,train,a\n"cat/a, b.png",train,a\ndog/in/caf\u00e9.png,train,b\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,split,group\n" + ROWS + "cow/1.png,train,a\n", "cow/1.png"),
        ("file,split,group\n" + ROWS + "cat/1.png,test,c\n", "more than once: cat/1.png"),
        ("file,split,group\n" + ROWS.split("\n")[0], "no row .*cat/a, b.png, dog/in/caf\u00e9.png"),
        ("file,split,group\n" + ROWS.replace("png,train,b", "png,test,a"), "group 'a' to train and to test"),
        ("file,split,group\n" + ROWS.replace("train,b", "dev,b"), "Row 3 .*'dev'.*train, validation, test"),
        ("file,split,group\ncat/1.png\n", "Row 1 .*cat/1.png.*''"),
        ("file;split\n", r"separated by commas.*'file;split'"),
        ("path,split\n", "columns 'file'"),
        ("", r"columns 'file'.*\[\]"),
        ('file,split\n"cat/1.png,train', "not a CSV file"),
    ],
)
def test_a_wrong_table_is_refused_by_the_name_of_the_file_or_the_row(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        assigned(tmp_path, content)
