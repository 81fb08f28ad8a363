"""Loading labeled pictures for a classifier whose classes are known."""

import pytest

from peft_mudpt.lab.data.labeled import LabeledFolder
from tests.lab.data.test_folders import save_pictures


def load(tmp_path, folders, class_names, names=None):
    file = None
    if names is not None:
        file = tmp_path / "names.txt"
        file.write_text(names)
    return LabeledFolder.read(save_pictures(tmp_path / "pictures", folders), file).labeled(class_names)


def test_the_label_of_a_picture_is_the_position_of_its_class_in_the_classifier(tmp_path):
    pictures, notes = load(tmp_path, {"cat": 1, "sea_lion": 2}, ["sea lion", "dog", "cat"])
    assert dict(zip(pictures["item"][:], pictures["label"][:])) == {
        "cat/0.png": 2,
        "sea_lion/0.png": 0,
        "sea_lion/1.png": 0,
    }
    assert len(notes) == 1 and "without pictures" in notes[0] and notes[0].endswith(": dog")


def test_the_file_of_training_names_the_folders_and_several_may_be_one_class(tmp_path):
    pictures, notes = load(tmp_path, {"n1": 1, "n2": 1}, ["cat", "dog"], "n1 = dog\nn2 = dog\nn3 = cat\n")
    assert pictures["label"][:] == [1, 1]
    assert any("several folders: dog" in note for note in notes)


@pytest.mark.parametrize(
    ("folders", "class_names", "names", "message"),
    [
        (
            {"cat": 1, "cow": 1},
            ["cat", "dog"],
            None,
            "does not know: cow. It knows cat, dog.*--class_names.*--classes",
        ),
        ({"cat": 1}, ["cat", "dog"], "cat = lion", "does not know: lion. It knows"),
        ({"Dogs": 1, "cow": 1}, ["cat", "dog"], None, "does not know: Dogs, cow. Did you mean dog[?] It knows"),
        ({"crane": 1}, ["crane", "crane"], None, "Several classes .*crane"),
        ({}, ["cat", "dog"], None, "FOLDER .*at least 1"),
        ({"train/cat": 1, "test/cat": 1}, ["cat", "dog"], None, "look like splits.* Give one as FOLDER"),
    ],
)
def test_folders_that_do_not_fit_the_classes_are_named(tmp_path, folders, class_names, names, message):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ValueError, match=message):
        load(tmp_path, folders, class_names, names)
