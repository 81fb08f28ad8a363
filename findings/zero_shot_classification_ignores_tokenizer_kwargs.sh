#!/usr/bin/env bash
# Seen with torch 2.13.0 and transformers 5.24.0 (Python 3.11):
# The pipeline "zero-shot-image-classification" accepts `tokenizer_kwargs`, and uses none of them. Its method `preprocess`
# would, but nothing hands them over, neither from the call nor from `pipeline(...)`. So labels are padded to the longest one
# whatever is asked, and `truncation=True` does not save a label that is too long. Nothing warns of it.
#
# Output seen:
#     tokens per label if max_length=12 is given to the call: 4, to pipeline(): 4, to preprocess(): 12
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.24.0 Pillow
cd "$folder"
venv/bin/python -W ignore - 2>/dev/null <<'PYTHON'
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast, pipeline

words = Tokenizer(models.WordLevel({"<pad>": 0, "<bos>": 1, "<eos>": 2, "red": 3, "cat": 4}, unk_token="<pad>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
words.post_processor = processors.TemplateProcessing("<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)])
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words,
    bos_token="<bos>",
    eos_token="<eos>",
    pad_token="<pad>",
    model_input_names=["input_ids", "attention_mask"],
)
layers = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
text = dict(**layers, vocab_size=5, max_position_embeddings=16, bos_token_id=1, eos_token_id=2, pad_token_id=0)
torch.manual_seed(0)
model = CLIPModel(CLIPConfig(text_config=text, vision_config=dict(**layers, image_size=32, patch_size=16))).eval()
processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
picture, labels = Image.new("RGB", (32, 32), "gray"), ["cat", "red cat"]
given = {"padding": "max_length", "max_length": 12}
parts = dict(model=model, tokenizer=tokenizer, image_processor=processor)
lengths = []
model.text_model.register_forward_pre_hook(
    lambda module, args, inputs: lengths.append(inputs["input_ids"].shape[1]), with_kwargs=True
)

classify = pipeline("zero-shot-image-classification", **parts)
classify(picture, candidate_labels=labels, hypothesis_template="{}", tokenizer_kwargs=given)
of_pipeline = pipeline("zero-shot-image-classification", **parts, tokenizer_kwargs=given)
of_pipeline(picture, candidate_labels=labels, hypothesis_template="{}")
inputs = classify.preprocess(picture, candidate_labels=labels, hypothesis_template="{}", tokenizer_kwargs=given)
with torch.no_grad():
    classify.forward(inputs)
call, made, direct = lengths
print(f"tokens per label if max_length=12 is given to the call: {call}, to pipeline(): {made}, to preprocess(): {direct}")
assert lengths == [4, 4, 12]
PYTHON
