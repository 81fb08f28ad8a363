"""Drawing training, validation and test pictures from a data set."""

from collections import Counter

from peft_mudpt.lab.data.draws import draw, subset
from peft_mudpt.lab.data.options import DataOptions
from peft_mudpt.lab.data.sources import load_data
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


def test_without_a_validation_split_at_most_four_of_the_remaining_pictures_per_class_validate(tmp_path):
    train = save_pictures(tmp_path / "pictures", {"cat": 9, "dog": 6})
    data = load_data(DataOptions(train_dir=train, test_dir=save_pictures(tmp_path / "test", {"cat": 1, "dog": 1})))
    drawn = draw(data, shots=4, seed=1)
    assert Counter(drawn.validation["label"][:]) == {0: 4, 1: 2}
    assert not set(drawn.validation["item"][:]) & set(drawn.train["item"][:])


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
