"""How many processes read pictures."""

import os

import pytest

from peft_mudpt.lab.data import workers
from peft_mudpt.lab.data.workers import MOST, choose_workers, usable_cores


@pytest.mark.parametrize(
    ("cores", "device_type", "processes", "expected"),
    [
        (8, "cuda", 1, 7),
        (8, "cuda", 4, 1),
        (8, "cuda", 16, 1),
        (8, "cpu", 1, 4),
        (8, "cpu", 2, 2),
        (1, "cpu", 1, 1),
        (1, "cuda", 1, 1),
        (128, "cuda", 1, MOST),
    ],
)
def test_workers_share_the_cores_with_the_model_and_with_other_processes(
    cores, device_type, processes, expected, monkeypatch
):
    monkeypatch.setattr(workers, "usable_cores", lambda: cores)
    assert choose_workers(None, device_type, processes) == expected


def test_a_number_that_is_asked_for_is_taken_unless_it_is_negative():
    assert choose_workers(0, "cuda") == 0 and choose_workers(99, "cpu", 4) == 99
    with pytest.raises(ValueError, match="num_workers.*-1"):
        choose_workers(-1, "cpu")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
def test_only_cores_that_this_process_may_use_count():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
