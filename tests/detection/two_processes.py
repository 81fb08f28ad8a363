"""What each of two processes makes of its half of a batch; `test_loss` holds it against one process."""

from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from peft import get_peft_model
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from peft_mudpt import SDPTConfig
from peft_mudpt.detection import per_picture_loss
from peft_mudpt.detection.loading import base_detector
from peft_mudpt.sdpt.layer import sdpt_layer_of
from tests.detection.conftest import build_detector


def learner() -> torch.nn.Module:
    """A detector of which the fusion is trained, as the methods do that are compared."""
    model = build_detector(auxiliary_loss=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("fusion_layer.attn" in name)
    return model


def loss(model: torch.nn.Module, rows, reduction: str = "sum") -> torch.Tensor:
    from tests.detection.test_loss import batch

    base_detector(getattr(model, "module", model)).loss_function = partial(per_picture_loss, reduction=reduction)
    return model(**batch(rows)).loss


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained_prototypes(rows) -> torch.Tensor:
    """SDPT's prototypes after two steps on the mean loss of the pictures of all processes, through accelerate."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    model = get_peft_model(build_detector(), SDPTConfig(num_virtual_tokens=4))
    (prototypes,) = sdpt_layer_of(model).sdpt_adapters["default"].parameters()
    # not Adam, which divides by the smallest gradients, and so enlarges their rounding errors
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD([prototypes], lr=10))
    for _ in range(2):
        accelerator.backward(loss(prepared, rows, "mean"))
        optimizer.step()
        optimizer.zero_grad()
    return prototypes.detach()


def main(rank: int, folder: Path) -> None:
    state = PartialState(cpu=True)  # whose presence makes transformers' own loss divide by the processes
    model = learner()
    rows = [2 * rank, 2 * rank + 1]
    with torch.no_grad():
        total = loss(model, rows).item()
    replica = DistributedDataParallel(model)  # its hooks live as long as it does
    loss(replica, rows, "mean").backward()
    torch.save((total, state.num_processes, gradients(model), trained_prototypes(rows)), folder / f"{rank}.pt")
    distributed.destroy_process_group()
