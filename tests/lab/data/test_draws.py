"""Drawing training, validation and test pictures from a data set."""

import dataclasses
import shutil
from collections import Counter

import pytest

from peft_mudpt.lab.data.draws import draw, subset
from peft_mudpt.lab.data.embedded import load_embedded
from peft_mudpt.lab.data.fingerprints import fingerprint
from peft_mudpt.lab.data.options import DataOptions
from peft_mudpt.lab.data.sources import load_data, load_folders
from tests.lab.data.test_folders import save_pictures


def test_without_other_splits_no_picture_is_both_trained_and_tested_on(tmp_path):
    data = load_data(DataOptions(train_dir=save_pictures(tmp_path / "pictures", {"cat": 10, "dog": 7})))
    drawn = draw(data, shots=3, seed=1)
    parts = [part["item"][:] for part in (drawn.train, drawn.validation, drawn.test)]
    assert [len(part) for part in parts] == [6, 5, 5]  # to test on: 3 of 10, 2 of 7
    assert len(set().union(*parts)) == 16


def test_held_out_test_pictures_are_the_same_for_every_number_of_shots_and_every_seed(tmp_path):
    data = load_data(DataOptions(train_dir=save_pictures(tmp_path / "pictures", {"cat": 10, "dog": 10})))
    tested = [draw(data, shots, seed).test["item"][:] for shots, seed in ((1, 1), (16, 1), (1, 2))]
    assert tested[0] == tested[1] == tested[2]
    trained = [draw(data, 1, seed).train["item"][:] for seed in range(6)]
    assert any(trained[0] != other for other in trained[1:])


def test_a_class_folder_more_leaves_the_held_out_pictures_of_the_other_classes(tmp_path):
    folder = save_pictures(tmp_path / "pictures", {"cat": 20, "dog": 17})
    before = draw(load_folders(folder), 2, 1, validation_shots=3)
    save_pictures(tmp_path / "pictures", {"bee": 9})  # between the others' labels
    after = draw(load_folders(folder), 2, 1, validation_shots=3)
    for part in ("validation", "test"):
        kept = [item for item in getattr(after, part)["item"][:] if not item.startswith("bee/")]
        assert kept == getattr(before, part)["item"][:]
        assert len(getattr(after, part)) > len(kept)


def test_a_picture_more_moves_few_pictures(tmp_path):
    folder = save_pictures(tmp_path / "pictures", {"cat": 20, "dog": 20})
    before = draw(load_folders(folder), 2, 1, validation_shots=3)
    save_pictures(tmp_path / "pictures", {"cat": 21})
    after = draw(load_folders(folder), 2, 1, validation_shots=3)
    for part in ("validation", "test"):
        one, other = (set(getattr(drawn, part)["item"][:]) for drawn in (before, after))
        assert len(one - other) <= 1


def test_without_a_validation_split_at_most_four_of_the_remaining_pictures_per_class_validate(tmp_path):
    train = save_pictures(tmp_path / "pictures", {"cat": 9, "dog": 6})
    data = load_data(DataOptions(train_dir=train, test_dir=save_pictures(tmp_path / "test", {"cat": 1, "dog": 1})))
    drawn = draw(data, shots=4, seed=1)
    assert Counter(drawn.validation["label"][:]) == {0: 4, 1: 2}
    assert not set(drawn.validation["item"][:]) & set(drawn.train["item"][:])


def test_validation_shots_are_kept_from_training(tmp_path):
    data = load_data(DataOptions(train_dir=save_pictures(tmp_path / "pictures", {"cat": 20, "dog": 5})))
    drawn = draw(data, shots=16, seed=1, validation_shots=6)
    assert Counter(drawn.validation["label"][:]) == {0: 6, 1: 3}  # dog: 1 of 5 to test on, 1 to train on
    assert Counter(drawn.train["label"][:]) == {0: 8, 1: 1}
    parts = [part["item"][:] for part in (drawn.train, drawn.validation, drawn.test)]
    assert len(set().union(*parts)) == sum(map(len, parts)) == 25
    assert any("fewer than 6 pictures to validate on: dog (3)" in remark for remark in drawn.remarks)
    assert drawn.test["item"][:] == draw(data, shots=16, seed=1).test["item"][:]


def test_validation_shots_of_a_validation_split_leave_the_training_pictures_as_they_are():
    data = load_embedded("faded")
    usual, asked = draw(data, 16, 1), draw(data, 16, 1, validation_shots=2)
    assert usual.train["item"][:] == asked.train["item"][:] and usual.test["item"][:] == asked.test["item"][:]
    assert (len(usual.validation), len(asked.validation)) == (4 * 96, 2 * 96)


def test_a_class_with_fewer_pictures_than_shots_gives_all_and_a_remark_names_it(tmp_path):
    data = load_data(DataOptions(train_dir=save_pictures(tmp_path / "pictures", {"cat": 2, "wild_dog": 5})))
    drawn = draw(data, shots=3, seed=1)
    assert Counter(drawn.train["label"][:]) == {0: 2, 1: 3}
    few, untested = drawn.remarks
    assert "fewer than 3" in few and few.endswith(": cat (2)")
    assert "test" in untested and untested.endswith(": cat")


def test_a_remark_lists_names_that_several_classes_share(tmp_path):
    data = load_data(DataOptions(train_dir=save_pictures(tmp_path / "p", {"cat": 1, "wild_dog": 1, "wild dog": 1})))
    assert any("share" in remark and remark.endswith(": wild dog") for remark in draw(data, 1, 1).remarks)


def test_the_labels_of_a_subset_are_positions_in_its_list_of_classes(tmp_path):
    data = load_data(DataOptions(train_dir=save_pictures(tmp_path / "pictures", {"ant": 1, "cat": 2, "dog": 1})))
    part = subset(data.train, [1, 2])
    assert part["label"][:] == [0, 0, 1] and part["item"][:] == ["cat/0.png", "cat/1.png", "dog/0.png"]


def test_a_search_holds_validation_pictures_back_before_the_shots_are_drawn(tmp_path):
    data = load_folders(save_pictures(tmp_path / "pictures", {"ant": 2, "bee": 10, "cat": 22, "dog": 1}))
    drawn = draw(data, shots=16, seed=1, evaluate_on="validation")
    assert Counter(drawn.validation["label"][:]) == {0: 1, 1: 2, 2: 4}  # of 2, 7, 16
    assert Counter(drawn.train["label"][:]) == {0: 1, 1: 5, 2: 12, 3: 1}
    tested = draw(data, shots=16, seed=1).test["item"][:]
    assert tested == drawn.test["item"][:]
    assert len({*drawn.train["item"][:], *drawn.validation["item"][:], *tested}) == 1 + 1 + 10 + 22 + 1
    assert any("validate" in remark and remark.endswith(": dog") for remark in drawn.remarks)


def test_the_run_after_a_search_trains_on_all_shots(tmp_path):
    data = load_folders(save_pictures(tmp_path / "pictures", {"cat": 22, "dog": 22}))
    assert Counter(draw(data, shots=16, seed=1).train["label"][:]) == {0: 16, 1: 16}


def test_a_search_uses_the_validation_split_if_there_is_one():
    data = load_embedded("plain")
    searched, tested = (draw(data, 4, 1, evaluate_on) for evaluate_on in ("validation", "test"))
    assert searched.train["item"][:] == tested.train["item"][:]
    assert searched.validation["item"][:] == tested.validation["item"][:]


@pytest.mark.parametrize("copies", [2, 5])
@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
def test_copies_of_a_picture_stay_on_one_side(tmp_path, copies, evaluate_on):
    folder = save_pictures(tmp_path / "pictures", {"cat": 9, "dog": 9})
    for i in range(3):
        for k in range(1, copies):
            shutil.copy(f"{folder}/cat/{i}.png", f"{folder}/cat/copy{k} of {i}.png")
    data = load_folders(folder)
    assert any(f"{3 * copies} equal files" in remark for remark in data.remarks)
    for seed in range(3):
        drawn = draw(data, 4, seed, evaluate_on)
        contents = [{fingerprint(example) for example in part} for part in (drawn.train, drawn.validation, drawn.test)]
        assert all(contents) and sum(map(len, contents)) == len(set().union(*contents))


def test_without_a_picture_to_test_on_the_advice_is_not_about_shots(tmp_path):
    data = load_folders(save_pictures(tmp_path / "pictures", {"cat": 3, "dog": 3}))
    (remark,) = draw(data, shots=1, seed=1).remarks
    assert "--shots" not in remark and "--test_dir" in remark and remark.endswith(": cat, dog")


def test_names_that_differ_only_in_case_are_one_text(tmp_path):
    data = load_folders(save_pictures(tmp_path / "p", {"Cat": 1, "cat": 1, "dog": 1}))
    assert any("share" in remark and remark.endswith(": Cat, cat") for remark in draw(data, 1, 1).remarks)


def test_the_remarks_of_the_data_come_first(tmp_path):
    data = dataclasses.replace(load_folders(save_pictures(tmp_path / "p", {"cat": 4, "dog": 4})), remarks=["a note"])
    assert draw(data, 3, 1).remarks == ["a note"]
