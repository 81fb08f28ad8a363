#!/usr/bin/env bash
# Seen with safetensors 0.8.0 and torch 2.13.0 (Python 3.11):
# `safe_open(path, "pt")` opens the path twice: it reads the header itself, and lets torch map the path again for the
# tensors. If a writer replaces the file in between by `os.replace`, as one does so that readers see whole files only,
# the reader gets the metadata of the old file with the tensors of the new one, without an error. `load` of the bytes of
# a file that was read at once gives both of the same file.
#
# Output seen:
#     safe_open: metadata of the first file, tensor of the second file
#     load: tensor of the first file
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q safetensors==0.8.0 numpy
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load, save_file

path, replacement = Path(sys.argv[1]) / "read.safetensors", Path(sys.argv[1]) / "written.safetensors"
from_file = torch.UntypedStorage.from_file


def write_both() -> None:
    save_file({"number": torch.tensor([1.0])}, path, metadata={"file": "first"})
    save_file({"number": torch.tensor([2.0])}, replacement, metadata={"file": "second"})


def map_after_a_writer(*args, **options):
    """What torch does, after another process has replaced the file."""
    os.replace(replacement, path)
    return from_file(*args, **options)


def file_of(tensor: torch.Tensor) -> str:
    return {1.0: "first", 2.0: "second"}[tensor.item()]


write_both()
torch.UntypedStorage.from_file = map_after_a_writer
with safe_open(path, "pt") as file:
    found = file.metadata()["file"], file_of(file.get_tensor("number"))
torch.UntypedStorage.from_file = from_file
print(f"safe_open: metadata of the {found[0]} file, tensor of the {found[1]} file")
write_both()
content = path.read_bytes()
os.replace(replacement, path)
at_once = file_of(load(content)["number"])
print(f"load: tensor of the {at_once} file")
assert found == ("first", "second") and at_once == "first"
PYTHON
