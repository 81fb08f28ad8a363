"""What each of two processes makes of its half of a batch; `test_integrations` holds it against one process."""

from pathlib import Path

import torch
from torch import distributed
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from tests.conftest import build_clip, build_inputs, checkpoint_layers
from tests.towers.test_towers import adapted


def learner(checkpointing: bool) -> torch.nn.Module:
    model = adapted(build_clip()).train()
    if checkpointing:
        checkpoint_layers(model, use_reentrant=False)
    return model


def loss(model: torch.nn.Module, rows: slice) -> torch.Tensor:
    """Of these rows of four images, to be told which of two texts they go with."""
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 0])
    return cross_entropy(model(**{**build_inputs(), "pixel_values": images[rows]}).logits_per_image, labels[rows])


def main(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo")
    for checkpointing in (False, True):
        model = learner(checkpointing)
        learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if rank:  # which begins with what the first process has
            with torch.no_grad():
                for parameter in learned.values():
                    parameter.zero_()
        replica = DistributedDataParallel(model)
        loss(replica, slice(2 * rank, 2 * rank + 2)).backward()
        gradients = {name: parameter.grad.clone() for name, parameter in learned.items()}
        torch.save(gradients, folder / f"gradients_{rank}_{checkpointing}.pt")
    torch.optim.AdamW(learned.values(), lr=0.1).step()
    torch.save({name: parameter.detach() for name, parameter in learned.items()}, folder / f"learned_{rank}.pt")
    if rank == 0:
        model.save_pretrained(folder / "adapter")
    distributed.destroy_process_group()
