#!/usr/bin/env bash
# Seen with torch 2.13.0 and transformers 5.24.0 (Python 3.11):
# GroundingDINO's image processor pads pictures of unlike sizes to a batch, and makes the boxes of `annotations` relative to the
# padded picture. But the boxes that the models predict are relative to the picture without its padding, as
# `post_process_grounded_object_detection` takes them. Training on such labels moves and shrinks the boxes that are learned.
# And a padded picture is not seen as it is alone: the group normalization of the models takes its statistics from the padding.
#
# Output seen:
#     the label of a box around the whole picture: [0.5, 0.5, 1.0, 1.0] alone, [0.333, 0.5, 0.667, 1.0] beside a wider picture
#     largest difference of the normalized maps: more than 0.1
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.24.0 Pillow scipy
cd "$folder"
venv/bin/python -W ignore - 2>/dev/null <<'PYTHON'
import numpy as np
import torch
from PIL import Image
from transformers import GroundingDinoImageProcessorPil

processor = GroundingDinoImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64})
pictures = [Image.fromarray(np.full((40, width, 3), 200, dtype=np.uint8)) for width in (40, 60)]


def annotation(picture):
    whole = {"image_id": 0, "category_id": 0, "bbox": [0, 0, *picture.size], "area": 1.0, "iscrowd": 0}
    return {"image_id": 0, "annotations": [whole]}


def label(batch):
    inputs = processor(batch, annotations=[annotation(picture) for picture in batch], return_tensors="pt")
    return [round(value, 3) for value in inputs["labels"][0]["boxes"][0].tolist()]


alone, beside = label(pictures[:1]), label(pictures)
print(f"the label of a box around the whole picture: {alone} alone, {beside} beside a wider picture")
norm = torch.nn.GroupNorm(32, 64)  # that of the models' `input_proj_vision`
features = torch.randn(1, 64, 4, 4, generator=torch.Generator().manual_seed(0))
padded = torch.nn.functional.pad(features, (0, 2))
difference = (norm(padded)[..., :4] - norm(features)).abs().max().item()
print(f"largest difference of the normalized maps: {'more' if difference > 0.1 else 'less'} than 0.1")
assert alone == [0.5, 0.5, 1, 1] and beside == [0.333, 0.5, 0.667, 1] and difference > 0.1
PYTHON
