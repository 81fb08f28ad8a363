#!/usr/bin/env bash
# Seen with accelerate 1.15.0 and torch 2.13.0 (Python 3.11):
# a run that uses dropout and is resumed as accelerate's documentation describes (`load_state`, then
# `skip_first_batches`) ends with other weights than the run that was not interrupted. `load_state` restores torch's
# global random number generator, but each new iterator over a DataLoader then draws a number from it, so that the next
# dropout masks differ. With a generator of its own, the loader leaves the global one alone, and the weights are equal.
#
# Output seen:
#     difference of the weights: 0.4
#     difference of the weights if the loader has a generator: 0.0
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q accelerate==1.15.0
"$folder/venv/bin/python" - <<'PYTHON'
import tempfile
from typing import Optional

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

INTERRUPTED_AT = 2


def train(checkpoint: str, resume: bool, generator: Optional[torch.Generator]) -> torch.Tensor:
    """Train on four equal batches; save the state before the third of them, or resume from there."""
    set_seed(0)
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(torch.ones(4, 8), generator=generator)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    batches = loader
    if resume:
        accelerator.load_state(checkpoint)
        batches = accelerator.skip_first_batches(loader, INTERRUPTED_AT)
    for step, batch in enumerate(batches, start=INTERRUPTED_AT if resume else 0):
        if step == INTERRUPTED_AT and not resume:
            accelerator.save_state(checkpoint)
        model(batch).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return accelerator.unwrap_model(model)[1].weight.detach().clone()


def difference(own_generator: bool) -> float:
    """The largest difference between the weights of a whole run and those of the same run, resumed."""
    with tempfile.TemporaryDirectory() as checkpoint:
        whole, resumed = (
            train(checkpoint, resume, torch.Generator() if own_generator else None) for resume in (False, True)
        )
    return (whole - resumed).abs().max().item()


usual, separate = difference(own_generator=False), difference(own_generator=True)
print(f"difference of the weights: {usual:.1f}")
print(f"difference of the weights if the loader has a generator: {separate}")
assert usual > 0.1 and separate == 0
PYTHON
