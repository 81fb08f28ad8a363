#!/usr/bin/env bash
# Seen with peft 0.21.2 and huggingface_hub 2.4.0 (torch 2.13.0, transformers 5.24.0, Python 3.11):
# offline (HF_HUB_OFFLINE=1), PEFT reads the config of an adapter in a subfolder of a cached repository, but says that its
# weights are not in the cache, because it asks for the subfolder twice: "lora/lora/adapter_model.safetensors". An adapter
# at the root of the same repository loads. Give the path of the snapshot's subfolder instead.
#
# Output seen:
#     config in the subfolder: LORA
#     adapter at the root: loads
#     adapter in the subfolder: LocalEntryNotFoundError
#     adapter in the subfolder, by its path: loads
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.24.0 peft==0.21.2 huggingface_hub==2.4.0
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import os
from pathlib import Path

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import CLIPConfig, CLIPModel

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
NAME = "someone/adapters"


def clip() -> CLIPModel:
    text = dict(vocab_size=100, max_position_embeddings=16, bos_token_id=98, eos_token_id=99, **SIZES)
    vision = dict(image_size=16, patch_size=8, **SIZES)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


def loading(adapter: str, **options) -> str:
    try:
        PeftModel.from_pretrained(clip(), adapter, **options)
    except Exception as error:
        return type(error).__name__
    return "loads"


# a cached repository, as a download would leave it
commit = "0" * 40
repository = Path(os.environ["HF_HOME"]) / "hub" / "models--someone--adapters"
(repository / "refs").mkdir(parents=True)
(repository / "refs" / "main").write_text(commit)
snapshot = repository / "snapshots" / commit
model = get_peft_model(clip(), LoraConfig(target_modules=["q_proj"]))
for folder in (snapshot, snapshot / "lora"):
    model.save_pretrained(folder)

kind = PeftConfig.from_pretrained(NAME, subfolder="lora").peft_type.value
root, inside, by_path = loading(NAME), loading(NAME, subfolder="lora"), loading(str(snapshot / "lora"))
print(f"config in the subfolder: {kind}")
print(f"adapter at the root: {root}")
print(f"adapter in the subfolder: {inside}")
print(f"adapter in the subfolder, by its path: {by_path}")
assert (kind, root, inside, by_path) == ("LORA", "loads", "LocalEntryNotFoundError", "loads")
PYTHON
