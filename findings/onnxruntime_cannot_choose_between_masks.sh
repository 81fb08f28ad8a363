#!/usr/bin/env bash
# Seen with torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2 and onnxruntime 1.32.0 (Python 3.11):
# `torch.where` of two boolean tensors, as one combines attention masks, is exported to ONNX without a word, and the file
# passes ONNX's full check. But onnxruntime has no implementation of `Where` for booleans on the CPU, and refuses the
# file when it is loaded. The same choice, written with `&` and `|`, loads.
#
# Output seen:
#     onnx.checker: valid
#     onnxruntime, torch.where: NotImplemented
#     onnxruntime, & and |: loads
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
cd "$folder"
venv/bin/python -W ignore - 2>/dev/null <<'PYTHON'
import onnx
import onnxruntime
import torch


class ByWhere(torch.nn.Module):
    """Takes the first mask where `x` is positive, and the second one elsewhere."""

    def forward(self, x, first, second):
        return torch.where(x > 0, first, second)


class ByLogic(torch.nn.Module):
    """The same by logical operators."""

    def forward(self, x, first, second):
        return ((x > 0) & first) | (~(x > 0) & second)


def loading(module: torch.nn.Module, file: str) -> str:
    """Export the module, and say what happens when onnxruntime loads it."""
    mask = torch.tensor([True, False])
    torch.onnx.export(module.eval(), (torch.tensor([1.0, -1.0]), mask, ~mask), file, dynamo=True, verbose=False)
    try:
        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:
        return type(error).__name__
    return "loads"


chosen = loading(ByWhere(), "where.onnx")
onnx.checker.check_model("where.onnx", full_check=True)
logical = loading(ByLogic(), "logic.onnx")
print("onnx.checker: valid")
print(f"onnxruntime, torch.where: {chosen}")
print(f"onnxruntime, & and |: {logical}")
assert chosen == "NotImplemented" and logical == "loads"
PYTHON
