"""Two processes learn and measure as one does."""

from pathlib import Path

import pytest
import torch

from peft_mudpt.lab import execute, prepare
from peft_mudpt.lab.training.checkpoints import trainable_tensors
from tests.conftest import in_two_processes
from tests.lab.detection.conftest import experiment, scenes


def work(rank: int, folder: Path, method: str, batch_size: int = 2) -> None:
    """Train on the same four pictures in each step, in batches of this size, and save what came of it."""
    data = scenes(train=12, test=5)
    options = dict(optimizer="sgd", learning_rate=0.01, warmup_ratio=0, per_device_train_batch_size=batch_size)
    plan = prepare(experiment(data, method, steps=2, shots=2, **options))
    outcome = execute(plan)
    assert plan.accelerator.num_processes * batch_size == 4
    learned = {name: tensor.detach() for name, tensor in trainable_tensors(plan.learner.model).items()}
    torch.save((learned, outcome.metrics["test"]["map"], plan.zero_shot), folder / f"{batch_size}_{rank}.pt")


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.parametrize("method", ["sdpt", "full"])
def test_two_processes_learn_and_measure_as_one(tmp_path, method):
    in_two_processes(work, tmp_path, method)
    work(0, tmp_path, method, batch_size=4)
    (first, measured, zero_shot), (second, _, _), (alone, expected, plain) = (
        torch.load(tmp_path / f"{name}.pt") for name in ("2_0", "2_1", "4_0")
    )
    assert zero_shot == plain and measured == pytest.approx(expected, abs=1e-3)
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, atol=1e-6, rtol=1e-5)
