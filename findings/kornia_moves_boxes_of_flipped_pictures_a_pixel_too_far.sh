#!/usr/bin/env bash
# Seen with torch 2.13.0 and kornia 0.9.0 (Python 3.11):
# A flip from left to right of a picture of W pixels moves the edge x of a box to W - x. Kornia moves it to W - 1 - x, as if
# edges were the centers of pixels, so that the box of the first ten columns is that of columns 89 to 98, not 90 to 99. Resizing
# scales boxes by (W' - 1) / (W - 1). MONAI 1.6.1 does both exactly.
#
# Output seen:
#     flipped: [89.0, 0.0, 99.0, 20.0]
#     three times as wide: [0.0, 0.0, 30.2, 20.0]
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q kornia==0.9.0
cd "$folder"
venv/bin/python -W ignore - 2>/dev/null <<'PYTHON'
import kornia.augmentation as K
import torch

picture, boxes = torch.zeros(1, 3, 50, 100), torch.tensor([[[0.0, 0.0, 10.0, 20.0]]])


def moved(change):
    found = K.AugmentationSequential(change, data_keys=["input", "bbox_xyxy"])(picture, boxes)[1]
    return [round(value, 1) for value in found[0, 0].tolist()]


flipped, resized = moved(K.RandomHorizontalFlip(p=1.0)), moved(K.Resize((50, 300)))
print(f"flipped: {flipped}")
print(f"three times as wide: {resized}")
assert flipped == [89, 0, 99, 20] and resized == [0, 0, 30.2, 20]
PYTHON
