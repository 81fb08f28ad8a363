#!/usr/bin/env bash
# Seen with peft 0.21.2 (torch 2.13.0, transformers 5.24.0, Python 3.11):
# who compares a half-frozen adapter with its base, as losses do that hold it near the base, trains the frozen half
# afterwards. Leaving `with model.disable_adapter():` sets requires_grad of every parameter of the active adapter, also
# of those that the user had frozen. The next optimizer step then trains them, if the optimizer knows them.
#
# Output seen:
#     frozen by the user: 8 of 16 parameters
#     trainable after a block of disable_adapter: 16
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.24.0 peft==0.21.2
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
from peft import LoraConfig, get_peft_model
from transformers import CLIPConfig, CLIPModel

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
text = dict(vocab_size=100, max_position_embeddings=16, bos_token_id=98, eos_token_id=99, **SIZES)
vision = dict(image_size=16, patch_size=8, **SIZES)
clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))

model = get_peft_model(clip, LoraConfig(target_modules=["q_proj", "v_proj"]))
for name, parameter in model.named_parameters():
    if "vision_model" in name:
        parameter.requires_grad = False


def trainable() -> int:
    return sum(parameter.requires_grad for parameter in model.parameters())


learned = sum("lora_" in name for name, _ in model.named_parameters())
frozen = learned - trainable()
with model.disable_adapter():
    pass
after = trainable()
print(f"frozen by the user: {frozen} of {learned} parameters")
print(f"trainable after a block of disable_adapter: {after}")
assert (frozen, learned, after) == (8, 16, 16)
PYTHON
