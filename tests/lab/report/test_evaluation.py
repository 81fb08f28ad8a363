"""How a test is shown, class by class."""

import csv
import io

import pytest
import torch
from sklearn.metrics import confusion_matrix

from peft_mudpt.lab.evaluation import metrics_of
from peft_mudpt.lab.evaluation_job import Mistake
from peft_mudpt.lab.report.evaluation import class_lines, confusion_csv, confusion_lines, mistake_lines


def found_for(labels, predicted, class_names):
    items = [f"{i}.png" for i in range(len(labels))]
    return metrics_of(torch.tensor(predicted), labels, class_names, items)


LABELS, PREDICTED = [0, 0, 0, 1, 2, 2], [0, 2, 2, 1, 2, 0]
NAMES = ["cat", "dog, big", "lion", "owl"]


def test_the_confusion_matrix_is_that_of_scikit_learn_in_a_file_and_in_the_terminal():
    metrics = found_for(LABELS, PREDICTED, NAMES)
    wanted = confusion_matrix(LABELS, PREDICTED, labels=range(4)).tolist()
    header, *rows = csv.reader(io.StringIO(confusion_csv(metrics)))
    assert header[1:] == NAMES and [row[0] for row in rows] == NAMES
    assert [list(map(int, row[1:])) for row in rows] == wanted
    numbers = [line.replace(" . ", " 0 ").replace(" .", " 0").split()[-3:] for line in confusion_lines(metrics)]
    assert numbers == [["1", "2", "3"], *([str(n) for n in row[:3]] for row in wanted[:3])]  # no picture is an owl


def test_classes_without_pictures_have_no_row_but_are_named_with_their_columns():
    header, *rows, absent = confusion_lines(found_for([0, 0, 2, 2], [0, 1, 3, 2], NAMES))
    assert header.split() == ["1", "2", "3", "4"]
    assert [row.split()[0] for row in rows] == ["1", "3"]
    assert absent.endswith(": 2 dog, big, 4 owl")


def test_of_many_classes_the_terminal_lists_the_pairs_that_are_confused_most_often():
    names = [f"class {i}" for i in range(30)]
    labels = [0, 0, 1, *range(30)]
    lines = confusion_lines(found_for(labels, [2, 2, 0, *range(30)], names))
    assert [line.split(maxsplit=1) for line in lines] == [
        ["2", "class 0 taken for class 2"],
        ["1", "class 1 taken for class 0"],
    ]


def test_classes_that_share_a_name_are_told_apart():
    names = ["crane", "crane", "owl"]
    header, *rows = csv.reader(io.StringIO(confusion_csv(found_for([0, 1, 2], [0, 0, 2], names))))
    assert header[1:] == [row[0] for row in rows] == ["crane [0]", "crane [1]", "owl"]
    assert [row[1:] for row in rows] == [["1", "0", "0"], ["1", "0", "0"], ["0", "0", "1"]]


def test_without_mistakes_there_is_no_confusion_matrix():
    assert confusion_lines(found_for(LABELS, LABELS, NAMES)) == []


def test_the_classes_with_the_lowest_accuracy_come_first():
    lines = class_lines(found_for(LABELS, PREDICTED, NAMES))
    assert [line.split(" of ")[0].rsplit(maxsplit=1)[0].strip() for line in lines] == ["cat", "lion", "dog, big"]
    assert "1 of 3   33.3 % (6.1 to 79.2 %)" in lines[0]  # by scipy.stats.binomtest


@pytest.mark.parametrize("number, last", [(20, "19.png: \\x1b[31mdog, not cat"), (23, "3 more mistakes")])
def test_a_long_list_says_how_many_lines_are_left_out(number, last):
    mistakes = [Mistake(f"{i}.png", "cat", "\x1b[31mdog", 0.5) for i in range(number)]
    lines = mistake_lines(mistakes)
    assert lines[-1].endswith(last) and lines[0].strip() == "50.0 %  0.png: \\x1b[31mdog, not cat"
