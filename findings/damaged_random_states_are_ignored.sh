#!/usr/bin/env bash
# Seen with accelerate 1.15.0 and torch 2.13.0 (Python 3.11):
# `load_state` restores a checkpoint without its random states, and raises no error, if their file is missing or cannot
# be read, as after a full disk. The only sign is a log message of level INFO, which is not shown by default. A run with
# dropout then goes on with other random numbers than the run that was interrupted.
#
# Output seen:
#     next random number, file whole: as saved
#     next random number, file missing: another one, and no error
#     next random number, file empty: another one, and no error
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
from pathlib import Path

import torch
from accelerate import Accelerator

accelerator = Accelerator(cpu=True)
accelerator.prepare(torch.nn.Linear(1, 1))
with tempfile.TemporaryDirectory() as checkpoint:
    torch.manual_seed(1)
    accelerator.save_state(checkpoint)
    saved = torch.rand(1)
    states = Path(checkpoint) / "random_states_0.pkl"

    def next_number() -> str:
        torch.manual_seed(2)
        accelerator.load_state(checkpoint)
        return "as saved" if torch.equal(torch.rand(1), saved) else "another one, and no error"

    content = states.read_bytes()
    found = {"whole": next_number()}
    states.unlink()
    found["missing"] = next_number()
    states.write_bytes(content[:0])
    found["empty"] = next_number()
for state, number in found.items():
    print(f"next random number, file {state}: {number}")
assert found["whole"] == "as saved" and {found["missing"], found["empty"]} == {"another one, and no error"}
PYTHON
