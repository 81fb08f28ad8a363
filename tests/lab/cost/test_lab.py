"""The benchmark of the lab: its rows and their table."""

import time

import torch
from torch.utils.data import DataLoader

from peft_mudpt.lab.cost import lab
from peft_mudpt.lab.cost.lab import WaitingAccelerator, measure_epoch, measure_lab, measure_prediction
from peft_mudpt.lab.cost.limits import Limits, Stopped
from peft_mudpt.lab.cost.tables import markdown


LIMITS = Limits(10**9, 60)


class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        time.sleep(0.01)
        return torch.tensor(index)


def test_an_accelerator_measures_how_long_a_loop_waits_for_its_batches(fresh_accelerator):
    accelerator = WaitingAccelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(Slow(), batch_size=1))
    assert len(loader) == 3 and [batch.item() for batch in loader] == [0, 1, 2]
    assert accelerator.waited >= 0.03


def test_an_epoch_sees_each_picture_once_and_waits_for_a_share_of_its_time(fresh_accelerator):
    (row,) = measure_epoch(shots=1)
    assert row["amount"] == 96 and row["unit"] == "pictures" and 0 < row["waits"] < 1


def test_every_picture_is_predicted(fresh_accelerator):
    rows = measure_prediction(pictures=3)
    assert [(row["what"], row["amount"]) for row in rows] == [
        (f"prediction, {workers} workers", 3) for workers in (0, 1, 2)
    ]


def test_a_part_that_is_stopped_costs_its_row_only(monkeypatch, tmp_path):
    def in_child(function, arguments, limits):
        given.append(arguments)
        if function is lab.measure_evaluation:
            raise Stopped("took longer than 20 minutes")
        return [{**lab._row(function.__name__, 6, "pictures", 2.0), "waits": 0.25}]

    given = []
    monkeypatch.setattr(lab, "in_child", in_child)
    rows = measure_lab(tmp_path, LIMITS, say=lambda line: None)
    assert len(rows) == 4 and given == [{}, {}, {}, {"script": tmp_path / "sweep.py"}]
    measured = dict.fromkeys(("times", "memory", "banks", "detector_times", "detector_memory"), [])
    machine = {"device": "cpu", "threads": 2, "precision": "float32", "torch": "2"}
    text = markdown({**machine, **measured, "lab": rows})
    assert "| measure_epoch | 6 pictures | 2.00 | 3 | 25 % |" in text
    assert "- evaluation: the process of the evaluation took longer than 20 minutes" in text
