#!/usr/bin/env bash
# Seen with torch 2.13.0 and torchmetrics 1.9.0 (Python 3.11):
# The calibration error of torchmetrics puts a confidence of exactly 1 into one bin more than was asked for, not into the last
# bin. The logits of CLIP are cosines times 100, so that many float32 probabilities are exactly 1, and the error is another than
# that of the definition (arXiv 1706.04599), in which too low and too high confidences of one bin balance each other.
# Reported as https://github.com/Lightning-AI/torchmetrics/issues/3510.
#
# Output seen:
#     probability of the first class, of cosines 0.30 and 0.10: 1.0, of 0.30 and 0.268: 0.960834264755249
#     calibration error with 20 bins: torchmetrics 0.060, by the definition 0.020
#     the same if a probability of 1 is the largest number below 1: torchmetrics 0.020
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q torchmetrics==1.9.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

BINS = 20
cosines = torch.tensor([[0.30, 0.10], [0.30, 0.268]])
certain, unsure = (100 * cosines).softmax(dim=1)
print(f"probability of the first class, of cosines 0.30 and 0.10: {certain[0].item()}, of 0.30 and 0.268: {unsure[0].item()}")

# 50 predictions of each kind: all of the unsure ones are right, and 46 of the certain ones
probabilities = torch.cat([unsure.expand(50, 2), certain.expand(50, 2)])
labels = torch.tensor([0] * 96 + [1] * 4)


def measured(probabilities):
    return multiclass_calibration_error(probabilities, labels, num_classes=2, n_bins=BINS).item()


confidence = probabilities[:, 0].double()
assert (confidence > 1 - 1 / BINS).all()  # so that all predictions are in the last bin
defined = abs(confidence.mean() - 0.96).item()
rounded = probabilities.clamp(max=torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item())
print(f"calibration error with {BINS} bins: torchmetrics {measured(probabilities):.3f}, by the definition {defined:.3f}")
print(f"the same if a probability of 1 is the largest number below 1: torchmetrics {measured(rounded):.3f}")
assert certain[0] == 1
assert abs(measured(probabilities) - 0.06) < 1e-3 and abs(measured(rounded) - defined) < 1e-6 and abs(defined - 0.02) < 1e-3
PYTHON
