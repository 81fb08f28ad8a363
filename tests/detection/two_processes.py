"""What each of two processes makes of its half of a batch; `test_loss` holds it against one process."""

import os
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from peft_mudpt.detection import per_picture_loss
from tests.detection.conftest import build_detector


def learner() -> torch.nn.Module:
    """A detector of which the fusion is trained, as the methods do that are compared."""
    model = build_detector(auxiliary_loss=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("fusion_layer.attn" in name)
    return model


def loss(model: torch.nn.Module, rows, reduction: str = "sum") -> torch.Tensor:
    from tests.detection.test_loss import batch

    getattr(model, "module", model).loss_function = partial(per_picture_loss, reduction=reduction)
    return model(**batch(rows)).loss


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def main(rank: int, folder: Path, port: int) -> None:
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost")
    os.environ["MASTER_PORT"] = str(port)
    state = PartialState(cpu=True)  # whose presence makes transformers' own loss divide by the processes
    model = learner()
    rows = [2 * rank, 2 * rank + 1]
    with torch.no_grad():
        total = loss(model, rows).item()
    replica = DistributedDataParallel(model)  # its hooks live as long as it does
    loss(replica, rows, "mean").backward()
    torch.save((total, state.num_processes, gradients(model)), folder / f"{rank}.pt")
    distributed.destroy_process_group()
