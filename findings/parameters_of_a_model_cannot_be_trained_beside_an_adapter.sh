#!/usr/bin/env bash
# Seen with peft 0.21.2 (torch 2.13.0, transformers 5.24.0, Python 3.11):
# `modules_to_save` accepts the name of a parameter, such as CLIP's `logit_scale`, and then neither trains nor saves it,
# without a word. `target_parameters`, PEFT's way to parameters, refuses those that belong to the model itself. Who sets
# `requires_grad` by hand trains it, but `save_pretrained` leaves it out, and all adapters share it.
#
# Output seen:
#     modules_to_save: trains none, saves none
#     target_parameters: Targeting an nn.Parameter on the top-level module is not supported (parameter 'logit_scale').
#     requires_grad: trains logit_scale, saves none
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.24.0 peft==0.21.2
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import CLIPConfig, CLIPModel

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
text = dict(vocab_size=100, max_position_embeddings=16, bos_token_id=98, eos_token_id=99, **SIZES)
vision = dict(image_size=16, patch_size=8, **SIZES)


def clip() -> CLIPModel:
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


def found(names) -> str:
    return "logit_scale" if any("logit_scale" in name for name in names) else "none"


def outcome(model) -> str:
    trained = found(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return f"trains {trained}, saves {found(get_peft_model_state_dict(model))}"


named = outcome(get_peft_model(clip(), LoraConfig(target_modules=["q_proj"], modules_to_save=["logit_scale"])))
print(f"modules_to_save: {named}")
try:
    get_peft_model(clip(), LoraConfig(target_modules=["q_proj"], target_parameters=["logit_scale"]))
    refusal = "accepted"
except ValueError as error:
    refusal = str(error).strip()
print(f"target_parameters: {refusal}")
model = get_peft_model(clip(), LoraConfig(target_modules=["q_proj"]))
model.base_model.model.logit_scale.requires_grad_(True)
by_hand = outcome(model)
print(f"requires_grad: {by_hand}")
assert named == "trains none, saves none" and "not supported" in refusal
assert by_hand == "trains logit_scale, saves none"
PYTHON
