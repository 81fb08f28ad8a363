#!/usr/bin/env bash
# Seen with deepspeed 0.19.8 and 0.18.2, transformers 5.24.0 and torch 2.13.0 (Python 3.11, on a CPU):
# ZeRO-3 of deepspeed 0.19.8 partitions no CLIP, because CLIP's `logit_scale` is a scalar: deepspeed views each parameter
# as bytes, which torch refuses for tensors without axes. Version 0.18.2 partitions the same model.
#
# Output seen:
#     deepspeed 0.19.8: RuntimeError: self.dim() cannot be 0 to view Float as Byte (different element sizes)
#     deepspeed 0.18.2: partitioned
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.24.0 setuptools wheel
export DS_BUILD_OPS=0 DS_ACCELERATOR=cpu HF_HUB_OFFLINE=1
export RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29517
cat > "$folder/partition.py" <<'PYTHON'
import deepspeed
from transformers import CLIPConfig, CLIPModel

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
text = dict(vocab_size=100, max_position_embeddings=16, bos_token_id=98, eos_token_id=99, **SIZES)
vision = dict(image_size=16, patch_size=8, **SIZES)
clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
deepspeed.init_distributed("gloo")
try:
    deepspeed.zero.Init(module=clip)
    empty = all(parameter.numel() == 0 for parameter in clip.parameters())
    print(f"deepspeed {deepspeed.__version__}: {'partitioned' if empty else 'not partitioned'}")
except RuntimeError as error:
    print(f"deepspeed {deepspeed.__version__}: RuntimeError: {error}")
PYTHON
for version in 0.19.8 0.18.2; do
    "$folder/venv/bin/pip" install -q --no-build-isolation deepspeed==$version
    "$folder/venv/bin/python" -W ignore "$folder/partition.py" 2>/dev/null | grep "^deepspeed" | tee "$folder/$version"
done
grep -q "RuntimeError: self.dim() cannot be 0" "$folder/0.19.8"
grep -qx "deepspeed 0.18.2: partitioned" "$folder/0.18.2"
