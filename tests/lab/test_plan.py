"""What is printed about the pictures of a run."""

import dataclasses

import pytest

from peft_mudpt.lab.classification.experiment import Experiment
from peft_mudpt.lab.data.options import DataOptions
from peft_mudpt.lab.data.sources import load_folders
from peft_mudpt.lab.plan import picture_lines
from peft_mudpt.lab.protocols import ProtocolOptions
from tests.lab.data.test_folders import save_pictures


def lines(data, **options):
    protocol = ProtocolOptions(**options)
    return picture_lines(Experiment(data, protocol=protocol).select(), protocol)


@pytest.fixture
def data(tmp_path):
    """Of each class, 3 of 10 and 6 of 20 pictures are tested on."""
    return load_folders(save_pictures(tmp_path / "pictures", {"ant": 10, "bee": 20, "cat": 10, "dog": 20}))


def test_pictures_that_no_part_of_the_run_uses_are_counted_with_the_reason(data):
    found = lines(data, shots=2)  # 2 of 7 and of 14, and 2 more of each to validate on
    assert (found["validation pictures"], found["test pictures"]) == ("8", "18")
    assert found["not used"].startswith("26 pictures, because --shots is 2 ")  # 3 + 10 + 3 + 10


def test_validation_shots_are_used_too(data):
    found = lines(data, shots=2, validation_shots=5)
    assert found["validation pictures"] == "20" and found["not used"].startswith("14 ")  # 0 + 7 + 0 + 7


def test_one_picture_is_no_plural(tmp_path):
    data = load_folders(save_pictures(tmp_path / "pictures", {"ant": 2, "bee": 4}))
    assert lines(data, shots=1, validation_shots=1)["not used"].startswith("1 picture, ")


def test_a_run_that_uses_all_pictures_says_no_more(data):
    assert lines(data, shots=16) == {"test pictures": "18"}
    assert lines(data, shots=12) == {"validation pictures": "4", "test pictures": "18"}


def test_pictures_that_the_run_is_tested_on_do_not_count_twice(data):
    found = lines(data, shots=1, evaluate_on="validation")  # 2 and 4 of each class
    assert found["test pictures"] == "12" and "validation pictures" not in found


def test_what_a_protocol_leaves_over_is_not_the_choice_of_the_shots(data):
    known = dataclasses.replace(data, origin=DataOptions(dataset="faded"))
    assert "not used" not in lines(known, shots=2) and "not used" not in lines(data, shots=2, protocol="base-to-new")
