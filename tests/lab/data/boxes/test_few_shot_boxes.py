"""The pictures of a run: those of the published rule, and what is held out."""

import pytest
from datasets import Dataset

from peft_mudpt.lab.data.boxes import FewShotBoxes, draw_boxes, sample_few_shot_boxes
from peft_mudpt.lab.data.boxes.few_shot_boxes import pictures_by_class


LABELS = [[0], [0, 1], [], [1], [0], [1, 1], [0, 1], [], [0], [1]]


def pictures(labels=LABELS, name="train", ignored=None):
    return Dataset.from_dict(
        {
            "image": [{"bytes": None, "path": f"{name}/{i}.png"} for i in range(len(labels))],
            "boxes": [[[0.0, 0.0, 1.0, 1.0]] * len(own) for own in labels],
            "labels": labels,
            "ignored": ignored or [[False] * len(own) for own in labels],
            "item": [f"{name}/{i}" for i in range(len(labels))],
        }
    )


def data(**options):
    return FewShotBoxes("made", ["cat", "dog"], pictures(), **options)


@pytest.mark.parametrize("seed", [0, 3])
def test_with_a_test_split_the_draw_is_that_of_the_published_rule(seed):
    test = pictures([[0], [1]], "test")
    drawn = draw_boxes(data(test=test), 2, seed)
    expected = sample_few_shot_boxes(LABELS, 2, seed)
    assert drawn.train["item"][:] == [f"train/{i}" for i in expected]
    assert drawn.test["item"][:] == ["test/0", "test/1"] and len(drawn.validation) == 0 and drawn.remarks == []


def test_without_one_a_third_is_held_out_whatever_the_shots_and_the_seed():
    held_out = {tuple(draw_boxes(data(), shots, seed).test["item"]) for shots in (1, 3) for seed in (1, 2)}
    (test,) = held_out
    assert len(test) == 3
    assert not set(test) & set(draw_boxes(data(), 9, 1).train["item"])


def test_a_picture_more_changes_one_held_out_picture_at_most():
    tested = []
    for number in range(10, 20):
        grown = FewShotBoxes("made", ["cat"], pictures([[0]] * number))
        tested.append(set(draw_boxes(grown, 1, 1).test["item"]))
    assert [len(test) for test in tested] == [3, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    assert all(len(one - other) <= 1 for one, other in zip(tested, tested[1:]))


def test_validation_pictures_are_drawn_first_and_are_not_trained_on():
    drawn = draw_boxes(data(), 1, 1, "validation")
    parts = [set(part["item"]) for part in (drawn.train, drawn.validation, drawn.test)]
    assert all(parts) and not parts[0] & parts[1] and not parts[2] & (parts[0] | parts[1])


def test_pictures_with_boxes_that_no_shot_needs_are_counted():
    test = pictures([[0]], "test")
    assert draw_boxes(data(test=test), 1, 0).unused == 8 - 2  # 0 and 1 of the 8 pictures with boxes
    assert draw_boxes(data(test=test), 9, 0).unused == 0


def test_ignored_boxes_count_for_no_shot():
    ignored = [[True], [False]]
    few = FewShotBoxes("made", ["cat", "dog"], pictures([[0], [0]], ignored=ignored), pictures([[0]], "test"))
    drawn = draw_boxes(few, 2, 0)
    assert drawn.train["item"][:] == ["train/1"]
    assert pictures_by_class(few.train, few.class_names) == {"cat": 1, "dog": 0}


def test_classes_with_too_few_pictures_and_without_test_pictures_are_named():
    drawn = draw_boxes(data(test=pictures([[0]], "test")), 6, 1)
    assert drawn.remarks == [
        "fewer than 6 pictures to train on, all used: cat (5), dog (5)",
        "no picture to evaluate on: dog",
    ]


def test_a_few_pictures_are_not_all_taken_for_validation():
    few = FewShotBoxes("made", ["cat", "dog"], pictures([[0], [1], [0], [1]]), pictures([[0]], "test"))
    drawn = draw_boxes(few, 5, 1, "validation")
    assert len(drawn.validation) == 1 and len(drawn.train) == 3


@pytest.mark.parametrize(
    ("train", "test", "words"), [([[], []], [[0]], "2 training pictures"), ([[0]], [[], [], []], "3 test pictures")]
)
def test_pictures_without_any_object_are_refused_before_the_run(train, test, words):
    with pytest.raises(ValueError, match=f"made has {words}, of which none shows an object.*--test_split"):
        draw_boxes(FewShotBoxes("made", ["cat"], pictures(train), pictures(test, "test")), 1, 1)
