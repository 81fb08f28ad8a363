#!/usr/bin/env bash
# Seen with torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2 and onnxruntime 1.32.0 (Python 3.11):
# torch writes attention as ONNX's operator `Attention`, which ONNX has since version 23, and up to `opset_version=25` the file has
# the version that was asked for. onnx itself knows versions 26 to 28. For 26, the conversion fails, torch logs it and raises
# nothing, and the file says that its operators are of version 18, which has no `Attention`: ONNX's check and onnxruntime
# refuse it. An explicit comparison of the version in the file with the one asked for finds this before a server does.
#
# Output seen:
#     asked for 25: version 25, onnx.checker valid, onnxruntime loads
#     asked for 26: version 18, onnx.checker ValidationError, onnxruntime InvalidGraph
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
from contextlib import redirect_stdout
from io import StringIO

import onnx
import onnxruntime
import torch
from torch.nn.functional import scaled_dot_product_attention


class Attention(torch.nn.Module):
    def forward(self, x):
        return scaled_dot_product_attention(x, x, x)


def outcome(load) -> str:
    """Call a function that loads a file, and name the error that it raises."""
    try:
        load()
    except Exception as error:
        return type(error).__name__
    return ""


def exported(version: int) -> tuple[int, str, str]:
    """Export with a version: the version in the file, and what its check and onnxruntime raise."""
    file = f"{version}.onnx"
    with redirect_stdout(StringIO()):  # torch prints its steps
        torch.onnx.export(Attention().eval(), (torch.ones(1, 2, 3, 4),), file, opset_version=version, dynamo=True)
    written = onnx.load(file)
    return (
        written.opset_import[0].version,
        outcome(lambda: onnx.checker.check_model(written, full_check=True)),
        outcome(lambda: onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])),
    )


found = {version: exported(version) for version in (25, 26)}
for asked, (version, check, loading) in found.items():
    print(f"asked for {asked}: version {version}, onnx.checker {check or 'valid'}, onnxruntime {loading or 'loads'}")
assert onnx.defs.onnx_opset_version() >= 26
assert found == {25: (25, "", ""), 26: (18, "ValidationError", "InvalidGraph")}
PYTHON
