#!/usr/bin/env bash
# Seen with torch 2.13.0 and transformers 5.24.0 (Python 3.11):
# The pipeline "zero-shot-object-detection" gives a box the largest score of all tokens of the text, [CLS], the period and [SEP]
# included, not of the tokens of the name. So a box may be reported as a cat because of the period behind "cat", and average
# precision from the pipeline differs from that of the scores of names.
#
# Output seen:
#     the best score of the pipeline is that of all tokens: True, that of the token 'cat': False
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
import torch
from PIL import Image
from transformers import (
    BertTokenizer,
    GroundingDinoImageProcessorPil,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    pipeline,
)

special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 104: "cat", 1012: ".", 1029: "?"}
tokenizer = BertTokenizer(vocab={special.get(i, f"[unused{i}]"): i for i in range(1030)})
processor = GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 64})
swin = dict(model_type="swin", embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2, image_size=64)
text = dict(model_type="bert", vocab_size=1030, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
torch.manual_seed(0)
config = MMGroundingDinoConfig(
    backbone_config={**swin, "out_indices": [2, 3, 4]},
    text_config={**text, "intermediate_size": 16},
    d_model=64,
    encoder_layers=2,
    decoder_layers=2,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    num_queries=6,
)
model = MMGroundingDinoForObjectDetection(config).eval()
picture = Image.new("RGB", (64, 64), "gray")
finder = pipeline("zero-shot-object-detection", model=model, tokenizer=tokenizer, image_processor=processor)
found = max(own["score"] for own in finder(picture, candidate_labels=["cat."], threshold=0.0))
with torch.no_grad():
    inputs = {**processor(picture, return_tensors="pt"), **tokenizer("cat.", return_tensors="pt")}
    scores = model(**inputs).logits[0, :, :4].sigmoid()  # of 6 boxes and the tokens [CLS], cat, period, [SEP]
of_all, of_name = (abs(found - best.item()) < 1e-5 for best in (scores.max(), scores[:, 1].max()))
print(f"the best score of the pipeline is that of all tokens: {of_all}, that of the token 'cat': {of_name}")
assert of_all and not of_name
PYTHON
